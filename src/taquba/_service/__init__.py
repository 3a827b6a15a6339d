"""Several processes that share a store: one owns it and works, all of them enqueue.

The modules, top to bottom; each uses only those below it:

    service    `Service`: one of the processes that share a store; all enqueue, one of them owns it
    ownership  standing for election, and what the elected process does: open the store, and work
    settings   what a service is told: its handlers
"""
