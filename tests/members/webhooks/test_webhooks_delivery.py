from tests.webhooks.test_delivery import *  # noqa: F403 - the same tests, on the handle of a member
