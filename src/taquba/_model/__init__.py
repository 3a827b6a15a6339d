"""Vocabulary: keys, codec, records, options, clock, errors. No I/O happens here.

The modules, top to bottom; each uses only those below it:

    batch       batches: requests on their way from a producer to the owner
    codec       values: MessagePack arrays
    options     option objects: frozen, validated once when they are made
    validate    checks of arguments
    ending      exceptions of functions: whether they are failures, or end more than the function
    ids         job ids: ULIDs that ascend strictly within one open store, whatever the clock does
    log_fields  fields of log records that are about a queue or a job, for handlers that write JSON
    records     records: the job as the store holds it, and the read-only views that callers see
    tasks       tasks that live no longer than the block that started them
    own_tasks   tasks at the end of their event loop: not cut off, or not waited for
    place       where a queue, reader or producer may be used
    resources   the result of an `open`: it can be awaited, or used with ``async with``
    errors      every error taquba raises
    holder      which process owns a store, as far as that is known
    same        whether a value came back as it was: with the same types and content
    describing  texts about objects of users, whatever their own methods do
    clock       time
    keys        keys: ``[space tag][format version][fields]``
    redaction   secrets taken out of text that comes from outside: of clients, of URLs
    unpacking   MessagePack from strangers, read piece by piece
    words       enumerations whose values are words
"""
