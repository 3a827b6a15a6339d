"""Calls over a unix socket, from other processes of one machine to the owner of a store.

The modules, top to bottom; each uses only those below it:

    remote_owner  the owner of a store, as other processes on its machine reach it
    server        the owner's end of the socket
    connection    the owner's end of one connection
    client        a producer's end of the socket
    address       the path on which the owner of a store listens
    outbox        frames on their way out of a process
    budget        bytes that several connections share
    values        arguments and results of calls, as bytes
    identity      the name of a process among those that take part
    joining       what a process says when it takes part, and what it is told
    tokens        claims and jobs on their way between the owner and the process that works on them
    frames        the frames of the protocol: each has the size of its body, a version and the body
    methods       the methods that other processes call on the owner
"""
