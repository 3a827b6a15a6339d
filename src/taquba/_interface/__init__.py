"""The interface of handles on a store, on which users and packages depend.

The modules, top to bottom; each uses only those below it:

    store  the operations of every handle on a store, in any process
    claim  a claim, as its holder sees it
"""
