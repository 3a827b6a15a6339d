from tests.jobs.test_evolution import *  # noqa: F403 - the same tests, on the handle of a member
