from tests.workflow.functions.test_steps import *  # noqa: F403 - the tests, on another handle
