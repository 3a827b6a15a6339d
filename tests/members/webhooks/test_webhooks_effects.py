from tests.webhooks.test_effects import *  # noqa: F403 - the same tests, on the handle of a member
