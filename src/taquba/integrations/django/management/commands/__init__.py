"""The commands, one module each.

The modules, top to bottom; each uses only those below it:

    taquba_worker  ``manage.py taquba_worker``: run the tasks of a backend
"""
