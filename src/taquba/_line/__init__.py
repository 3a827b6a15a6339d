"""Calls over a unix socket, from other processes of one machine to the owner of a store.

The modules, top to bottom; each uses only those below it:

    remote_owner  the owner of a store, as other processes of its machine reach it
    server        the owner's end of the socket
    client        a producer's end of the socket
    address       where the owner of a store listens
    budget        bytes that several connections share
    frames        what goes over the socket: frames, each with the size of its body, a version
    methods       what producers call on the owner, and how a job's record goes over the socket
"""
