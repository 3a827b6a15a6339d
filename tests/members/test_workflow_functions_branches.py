from tests.workflow.functions.test_branches import *  # noqa: F403 - the tests, on another handle
