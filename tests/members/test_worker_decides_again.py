from tests.worker.test_decides_again import *  # noqa: F403 - the same tests, on the handle of a member
