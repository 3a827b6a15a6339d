"""Transitions: a job's next state, as pure functions.

The modules, top to bottom; each uses only those below it:

    marks        marks of batches and jobs that were taken from the inbox before, as pure functions
    transitions  every state change of a job, as a pure function of record, event, time and policy
"""
