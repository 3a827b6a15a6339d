from tests.jobs.test_running import *  # noqa: F403 - the same tests, on the handle of a member
