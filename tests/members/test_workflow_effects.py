from tests.workflow.test_effects import *  # noqa: F403 - the tests, on another handle
