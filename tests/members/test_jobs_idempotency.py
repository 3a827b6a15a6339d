from tests.jobs.test_idempotency import *  # noqa: F403 - the same tests, on the handle of a member
