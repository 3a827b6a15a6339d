from tests.worker.test_one_handler import *  # noqa: F403 - the same tests, on the handle of a member
