"""Object storage without the engine: no module here, nor what it imports, loads slatedb.

The modules, top to bottom; each uses only those below it:

    elected             the process that is elected, as seen by one that does not stand for election
    candidates          a candidate for the ownership of a store
    election_in_bucket  elections in a bucket
    election_in_folder  elections in a local folder: a lock file
    fitness             the requirements on an object store, each tested by a function
    inbox_objects       the objects of a store's inbox
    payloads            large payloads, each a separate object, named by its job
    probe               requests that test an object store
    client              plain requests to an object store, beside the database
    user_objects        caller-owned objects: values too large for an entry
    space               objects beside the database: large values
    bucket_listing      the keys of a bucket, listed despite refusals and strange keys
    signed_listing      listing an S3 bucket that holds keys which the client cannot read
    folder_files        objects in a local folder: files that are found by name
    wake                notifications of new requests from producers on the same machine
    owner_address       the path by which processes of one machine find the owner of a store
    disk                why the engine cannot write to a local folder, which it does not say itself
    problems            problems of an object store, with their remedies
    owner_lock          lock files in a store folder that tell other processes of this machine
    file_lock           lock files
    holder_text         which process owns a store, as its owner has written it
    repeating           repeating requests to a bucket: a single refusal may be wrong
    places              which locations have worked in this process: the rule for temporary refusals
    election            which of several processes opens a store
    folder              durability of a local folder
    forks               open resources that a forked child must not keep
    integrity           the checks of objects beside the database, made at every read
    object_info         an object as listings show it
    left_alone          foreign files in a store's places: left as they are
    haste               the time that closing has while its event loop ends
    limits              limits that all code that talks to a store has in common
    location            store URLs: where a store lives
    user_folder         a temporary folder that belongs only to this user, for sockets
"""
