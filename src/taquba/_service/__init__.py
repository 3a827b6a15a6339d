"""Several processes that share a store: one of them owns it, all work, and can ask for everything.

The modules, top to bottom; each uses only those below it:

    running         `run_service`: a process that takes part until it is told to end
    service         `Service`: one of the processes that share a store, and a handle on it in each
    asking          the methods of a handle that an owner carries out, wherever it is
    processes       child processes that run worker loops, and are started again when they die
    child           a child process from within
    served          whether a store is served by a service, as seen from outside
    parts           the parts of a program that run beside the handlers
    ownership       standing for election; the elected process opens the store
    member          this process as one that works: its worker loops, and what they hold
    member_source   the jobs of a worker loop, whichever process owns the store
    remote          the methods of a handle, carried out by an owner in another process
    held            claims of a process that takes part, whoever owns the store
    lazily          what is opened when it is first needed, and closed at the end
    member_objects  caller-owned objects, for a process that need not own the store
    settings        the settings of a service: its handlers, and whether processes can have them
"""
