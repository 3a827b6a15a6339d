from tests.worker.test_odd_ends import *  # noqa: F403 - the same tests, on the handle of a member
