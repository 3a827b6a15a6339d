from tests.workflow.test_signals import *  # noqa: F403 - the tests, on another handle
