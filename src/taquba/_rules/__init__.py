"""Transitions: what a job becomes, as pure functions.

The modules, top to bottom; each uses only those below it:

    marks        marks: what tells that something from the inbox was taken before, as pure functions
    transitions  what a job becomes: every state change, as a pure function of record, event
"""
