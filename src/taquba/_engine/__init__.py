"""The storage engine. No other package imports slatedb.

The modules, top to bottom; each uses only those below it:

    engine           SlateDB behind a small surface: open, write, flush, close
    reopening        opening an owner's database again
    repairs          owners that open their engine again tell the others so
    building         how the storage engine is set up
    write_ahead_log  the write-ahead log as objects of a store: looked at
    label            what is at a location, found out by reading only
    read_only        SlateDB opened for reading only, beside an owner in this or another process
    reads            reading from SlateDB, bounded in time; the binding's errors become ours here
    wal_check        whether the write-ahead log is whole
    write_batches    rows as a batch of the storage engine
    again            repeat what one odd answer of a store may have spoiled
    binding          the fast way to read and write rows through SlateDB's binding
    damage           what the engine's words about a file mean, and what to do about it
    memory           hand memory that the storage engine has freed back to the system
    object_store     the object store that the storage engine works on
    recent           caller-owned entries that were written last
    syncing          a thread of its own for fsync, so that the event loop never waits for a disk
"""
