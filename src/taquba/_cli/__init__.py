"""The command line `taquba`; needs the extra ``taquba[cli]``.

The modules, top to bottom; each uses only those below it:

    app       the commands put together; how errors and interrupts become messages and exit codes
    dead      `dead list`, `dead requeue`, `dead purge`: what to do with jobs that failed for good
    kv        `kv get`, `kv scan`, `kv put`, `kv delete`: the caller-owned entries of a store
    change    `enqueue`, `cancel`, `wake`: changing one job
    top       `top`: the counters of a store as they change
    overview  `stats` and `queues`: the counters of a store and of its queues
    worker    `worker`: run a handler on the jobs of a queue
    service   `run`: take part in a service that a module has made
    bench     `bench`: how fast a queue is at a location
    inbox     `inbox`: requests of producers, and batches that the owner could not take
    members   `members`: the processes that take part in a service, and what each of them runs
    jobs      `jobs list`, `jobs show`, `jobs history`: inspecting jobs
    doctor    `doctor`: whether a location is fit for a store, and what it contains
    options   options and arguments that several commands share, and how a command is declared
    plugins   commands that installed distributions add: entry points of the group ``taquba.cli``
    content   content that a command is given: as an argument, in a file, or on standard input
    loading   importing the code that a command runs
    output    what commands print: tables for people, JSON for programs
    stores    opening a store: to read it beside its owner, or to own it for the time of a command
    errors    how commands end: exit codes, and the error that carries one
    parsing   values as people write them at a prompt: durations, points in time, priorities
    shapes    the JSON form of what commands print
"""
