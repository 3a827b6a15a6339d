from tests.worker.test_handlers import *  # noqa: F403 - the same tests, on the handle of a member
