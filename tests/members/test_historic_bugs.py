from tests.queue.test_historic_bugs import *  # noqa: F403 - the same tests, on the handle of a member
