"""Calls over a unix socket, from other processes of one machine to the owner of a store."""
