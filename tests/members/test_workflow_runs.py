from tests.workflow.test_runs import *  # noqa: F403 - the tests, on another handle
