from tests.cron.test_crash import (  # noqa: F401 - the same tests, on the handle of a member
    test_a_commit_of_unknown_outcome_is_looked_up_not_repeated,
    test_a_firing_during_an_outage_is_not_dropped,
    test_schedulers_that_fire_at_once_take_turns,
)
