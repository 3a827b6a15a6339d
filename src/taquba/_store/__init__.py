"""The commit path: every change of the store is a transaction, and many share one write.

The modules, top to bottom; each uses only those below it:

    committer    group commit: everything that waits becomes one atomic write
    cursors      how far the claims of each queue have come, kept in the store for the next owner
    transaction  the one way to change the store: a list of rows, counter changes
    watchdog     a watch on steps that are taken one after the other, thousands a second
"""
