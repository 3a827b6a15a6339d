from tests.cron.test_scheduler import *  # noqa: F403 - the same tests, on the handle of a member
