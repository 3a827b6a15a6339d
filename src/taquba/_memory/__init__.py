"""The owner's state in memory: ready windows, leases, waiters, locks.

The modules, top to bottom; each uses only those below it:

    gate       the gate that claims pass: suspects run alone, and do not wait for that forever
    leases     leases: who holds which job, until when
    alarm      an alarm: lets a background loop sleep until its next deadline
    callbacks  callbacks of users: called by the event loop, never by the code that triggers them
    locks      short locks for decisions that had to read the store first
    waiters    waiters: one wakeup per job that becomes ready, in the order of asking
    window     the ready window: the sorted front of a key space
"""
