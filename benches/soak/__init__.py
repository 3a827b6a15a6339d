"""Hours of trouble, and an independent proof of what came out of it.

Owners, processes of their own, enqueue and work under a load that rises and falls. They are
killed, fenced, suspended, and stopped; their clock jumps; on S3 the network misbehaves. Each writes
down every call it makes, and what came back. In the end a checker that knows nothing of the
library compares these histories with what is in the store.

    __main__   the command
    conduct    starts owners, troubles them, samples what they take
    owner      one owner: producers, workers, operators
    actors     what an owner's tasks do, and how they write it down
    plan       what both sides know: queues, load, times
    history    the files
    examine    reads the store at the end, through `taquba.QueueReader`; `final` is what it found
    places     where a store is, and what the network does to it
    checker    the verdict; its parts are `ledgers`, `jobs`, `order`, `innocents`, `commits`
               and `trends`
"""
