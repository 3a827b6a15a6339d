"""Workflows as functions, on top of runs and their steps.

A function's run is a run like any other; its steps are called *turns*. A turn replays the function
from the run's history, and goes on where that ends: what `WorkflowContext.step` calls runs in
place, and its result is an entry of the history before the call returns, durable, in a commit that
it shares with whatever else goes on. So N steps in a row are N entries in one turn. A turn ends
when every branch of the function waits (for a time, a signal, a child): the commit that settles it
writes down these waits and the job of the next turn, which is due when the first of them ends. In
between, the run is a row and a scheduled job, and holds no worker and no memory.

    runner       runs turns, and parks those that this program cannot go on with
    phases       what a turn comes to: the function, and, where that fails, its compensations
    decorator    `workflow`: makes an async function durable
    context      `WorkflowContext`: what a workflow's function does durably
    stepping     functions as steps: run once, as far as that can be known, and recorded
    handles      `RunHandle`: what is left of a function's run in the hands of its submitter
    recording    entries of a history on their way to the store
    turn         the function's branches, the calls they make, and when all of them wait
    definitions  functions as workflows, and as steps
    history      what a function has done: its calls, by their place in it

A call is identified by its place: its number within its branch, and the branch's within the call
of `gather` that made it. That does not depend on which branch is faster, so a replay finds each
entry whatever the timing was.
"""
