from tests.queue.test_operate import *  # noqa: F403 - the same tests, on the handle of a member
