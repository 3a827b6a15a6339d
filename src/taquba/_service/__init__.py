"""Several processes that share a store: one owns it and runs the handlers, all of them enqueue.

The modules, top to bottom; each uses only those below it:

    service    `Service`: one of the processes that share a store; all enqueue, one of them owns it
    ownership  standing for election; the elected process opens the store and runs the workers
    settings   the settings of a service: its handlers
"""
