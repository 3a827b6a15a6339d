from tests.jobs.test_swallowing import *  # noqa: F403 - the same tests, on the handle of a member
