"""The facade `Queue` and the operations behind it.

The modules, top to bottom; each uses only those below it:

    queue           `Queue`: the owner's handle on a store
    reader          `QueueReader`: a read-only look at a store from any process
    opening         opening a store: check its layout, load the state in memory
    calls           the calls that producers make through the owner's socket
    handle_calls    the methods of a handle, carried out for other processes
    member_calls    what processes that work on an owner's jobs say to it, and ask of it
    holders         processes that work on jobs of an owner elsewhere, and the claims they hold
    members         the processes that take part, and what each of them runs
    dispatching     claiming jobs for a worker loop in another process
    adoption        jobs that were claimed under a former owner: those whose process lives go on
    control         acting on jobs by id: cancel, wake, requeue, purge, wait for completion
    loops           background loops: scheduler, reaper, retention, heartbeat
    payload_reads   large payloads on their way to the claimer or reader of a job
    settling        settling a claim: ack, nack, dead-letter, with effects in the same commit
    intake          the owner's side of the inbox: takes the batches of producers
    ingesting       taking batches of producers into the queues, each once
    enqueueing      enqueueing: new jobs, dedup keys and custom ids
    key_values      caller-owned entries: a small key-value space beside the jobs
    payload_writes  large payloads on their way into the store
    claims          claims: taking jobs from the front of a queue and holding them under a lease
    inbox_listings  the contents of an inbox, for people and monitors
    guarding        keeping an opening from fencing an owner that lives
    owner           the state that all operations of an open queue share
    listings        reading jobs: one by id, listings, histories
    open_options    how a store is opened: the options that callers give
    presence        whether a store has a living owner, as seen by another process
    in_slices       work on thousands of items without blocking the event loop
"""
