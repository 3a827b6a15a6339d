from tests.worker.test_waiting import *  # noqa: F403 - the same tests, on the handle of a member
