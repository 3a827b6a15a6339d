"""The command line `taquba`; needs the extra ``taquba[cli]``.

The modules:

app       the commands put together, errors and exit codes
plugins   the commands that other distributions add, made of what `taquba.cli` exports
overview  stats, queues          top      the same, live
inbox     inbox
jobs      jobs list/show/history
dead      dead list/requeue/purge
change    enqueue, cancel, wake
kv        kv get/scan/put/delete
worker    worker
bench     bench                  doctor   doctor
stores    opening a store to read it, or to own it when nobody else does
options   options and arguments that commands share
parsing   durations, times and other values as people write them
output    tables, lines and JSON
shapes    the JSON form of records
"""
