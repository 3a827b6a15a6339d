"""Workflows as functions, on top of runs and their steps.

A function's run is a run like any other; its steps are called *turns*. A turn replays the function
from the run's history, and continues where that ends: a function called by `WorkflowContext.step`
runs in place, and its result is a durable entry of the history before the call returns, in a commit
that it shares with other changes. So N steps in a row are N entries in one turn. A turn ends when
every branch of the function waits (for a time, a signal, a child): the commit that settles it
records these waits and the job of the next turn, which is due when the first of them ends. In
between, the run is a row and a scheduled job, and occupies no worker and no memory.

    runner       runs turns, and parks those that this program cannot continue
    phases       the parts of a turn: the function, and, if that fails, its compensations
    decorator    `workflow`: makes an async function durable
    context      `WorkflowContext`: the durable calls of a workflow's function
    stepping     functions as steps: run once, if possible, and recorded
    handles      `RunHandle`: the submitter's handle on a function's run
    recording    entries of a history on their way to the store
    turn         the function's branches, the calls they make, and when all of them wait
    definitions  functions as workflows, and as steps
    history      the history of a function: its calls, by their place in it

A call is identified by its place: its number within its branch, and the branch's within the call
of `gather` that made it. That does not depend on which branch is faster, so a replay finds each
entry whatever the timing was.
"""
