from tests.workflow.test_memo import *  # noqa: F403 - the tests, on another handle
