from tests.bulk.test_paid import *  # noqa: F403 - the same tests, on the handle of a member
