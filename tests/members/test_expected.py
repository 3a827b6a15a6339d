from tests.queue.test_expected import *  # noqa: F403 - the same tests, on the handle of a member
