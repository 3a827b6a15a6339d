from tests.workflow.functions.test_failure import *  # noqa: F403 - the tests, on another handle
