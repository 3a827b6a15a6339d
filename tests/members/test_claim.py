from tests.queue.test_claim import *  # noqa: F403 - the same tests, on the handle of a member
