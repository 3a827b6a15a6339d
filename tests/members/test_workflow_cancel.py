from tests.workflow.test_cancel import *  # noqa: F403 - the tests, on another handle
