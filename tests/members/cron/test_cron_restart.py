from tests.cron.test_restart import (  # noqa: F401 - the same test, on the handle of a member
    test_one_scheduler_object_that_stopped_and_runs_again_was_away,
)
