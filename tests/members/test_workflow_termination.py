from tests.workflow.test_termination import *  # noqa: F403 - the tests, on another handle
