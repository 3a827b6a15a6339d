from tests.cron.test_restart import *  # noqa: F403 - the same tests, on the handle of a member
