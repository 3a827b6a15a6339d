from tests.bulk.test_kept_values import *  # noqa: F403 - the same tests, on the handle of a member
