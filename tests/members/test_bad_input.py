from tests.queue.test_bad_input import *  # noqa: F403 - the same tests, on the handle of a member
