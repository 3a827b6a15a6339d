from tests.cron.test_set_clock import *  # noqa: F403 - the same tests, on the handle of a member
