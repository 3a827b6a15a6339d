"""Worker loops: run handlers on the jobs of a queue.

The modules, top to bottom; each uses only those below it:

    workers       `run_workers`: several worker loops in one process, with signal handling
    worker        `run_worker`: claim jobs, run a handler on each, settle, until it must stop
    until_empty   worker loops that end together, when nothing is left that they may run
    sources       the source of a worker loop, by the handle on the store that it was given
    own_source    the jobs of an owner in this process
    handlers      handlers: the forms a user may write them in, as one async call
    plain         plain functions: called in a worker thread or an executor
    pools         where plain functions run besides the threads of this process: an executor
    overrun       a function that does not end by its timeout, and so ends its process
    threads       threads that call plain functions, and the end of a program that was asked to end
    shutdown      the event that asks a loop to end
    lease_handle  the lease as a handler sees it
    source        where a worker loop takes its jobs from, and where it says how they end
    outcomes      exceptions by which a handler decides how its job ends
"""
