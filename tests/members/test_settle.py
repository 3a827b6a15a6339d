from tests.queue.test_settle import *  # noqa: F403 - the same tests, on the handle of a member
