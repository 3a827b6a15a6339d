from tests.queue.test_lease import *  # noqa: F403 - the same tests, on the handle of a member
