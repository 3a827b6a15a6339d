"""The interface of handles on a store, on which users and packages depend.

The modules, top to bottom; each uses only those below it:

    store  what every handle on a store can do, in whichever process it is
    claim  a claim, as whoever holds it sees it
"""
