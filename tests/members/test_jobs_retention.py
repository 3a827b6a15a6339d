from tests.jobs.test_retention import *  # noqa: F403 - the same tests, on the handle of a member
