from tests.worker.test_until_empty import *  # noqa: F403 - the same tests, on the handle of a member
