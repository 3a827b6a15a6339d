"""Workflows as functions, on top of runs and their steps.

A function's run is a run like any other; its steps are called *turns*. A turn replays the function
from the run's history, and goes on where that ends: what `WorkflowContext.step` calls runs in
place, and its result is an entry of the history before the call returns, durable, in a commit that
it shares with whatever else goes on. So N steps in a row are N entries in one turn. A turn ends
when every branch of the function waits (for a time, a signal, a child): the commit that settles it
writes down these waits and the job of the next turn, which is due when the first of them ends. In
between, the run is a row and a scheduled job, and holds no worker and no memory.

    runner        one turn: replay, compensations, what it comes to
    context       what the function sees: `WorkflowContext`
    turn          branches, the calls they make, and when all of them wait
    recording     entries on their way to the store
    history       entries, and the check that a replay makes the same calls
    definitions   functions as workflows and as steps
    handles       what is left of a run in the hands of its submitter

A call is identified by its place: its number within its branch, and the branch's within the call
of `gather` that made it. That does not depend on which branch is faster, so a replay finds each
entry whatever the timing was.
"""
