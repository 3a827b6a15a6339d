from tests.worker.test_put_while_held import *  # noqa: F403 - the same tests, on the handle of a member
