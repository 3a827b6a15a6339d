from tests.jobs.test_one_runner import *  # noqa: F403 - the same tests, on the handle of a member
