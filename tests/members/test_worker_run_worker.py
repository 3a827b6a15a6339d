from tests.worker.test_run_worker import *  # noqa: F403 - the same tests, on the handle of a member
