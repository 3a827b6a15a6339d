"""Producers: requests from processes that do not own the store. Nothing here needs the engine.

The modules, top to bottom; each uses only those below it:

    threads      `SyncProducer`: a producer for plain threads
    producer     `Producer`: enqueues from any process into a store that another one owns
    packing      group commit on the producer's side: calls that wait at the same time share a batch
    socket_lane  the lane of producers on the machine of the owner
    lanes        ways for a batch to reach the owner of a store
    owner_calls  queries that only the owner can answer, through its socket
"""
