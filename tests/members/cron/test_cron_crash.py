from tests.cron.test_crash import *  # noqa: F403 - the same tests, on the handle of a member
