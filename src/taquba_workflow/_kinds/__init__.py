"""The kinds of jobs that a workflow has: how each is performed, and how it is concluded.

The modules, top to bottom; each uses only those below it:

    step         a step: runs the runner's code, and decides how the run continues
    turn         a turn of a function: runs it as far as it gets, and writes down what it waits for
    ended_child  the end of a child: wakes its parent
    ended_run    the end of a run: tells the terminal hook
    settling     what the settlements of steps and of turns have in common
"""
