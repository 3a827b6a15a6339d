"""Several processes that share a store: one owns it and runs the handlers, all can ask for all.

The modules, top to bottom; each uses only those below it:

    service         `Service`: one of the processes that share a store, and a handle on it in each
    ownership       standing for election; the elected process opens the store and runs the workers
    remote          the methods of a handle, carried out by an owner in another process
    lazily          what is opened when it is first needed, and closed at the end
    member_objects  caller-owned objects, for a process that need not own the store
    settings        the settings of a service: its handlers
"""
