"""Where Django looks for commands.

The modules, top to bottom; each uses only those below it:

    commands  the commands, one module each
"""
