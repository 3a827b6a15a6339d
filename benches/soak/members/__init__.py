"""Members of a service that are killed, suspended and replaced, and the proof that none else pays.

Processes take part in a service on one store: they enqueue, run handlers, claim by hand, and ask
for everything that can be asked. They are killed, suspended beyond their leases, and replaced, the
owner included; some jobs end the process that runs them. In the end a checker that knows nothing of
the library compares what each of them wrote down with what is in the store.

    conduct    starts members, troubles them, and lets them work everything off
    member     one member: its handlers, and what it asks for
    checker    the verdict; `runs` and `answers` are its parts
    runs       every time that a job ran, and whether it may have
    answers    what was asked, and what came back in which role
    logs       what the members wrote down, and what became of them
    stored     what is in the store in the end, and the process that reads it
    plan       what all of them know: queues, times, kinds of jobs
"""
