"""Object storage without the engine: no module here, nor what it imports, loads slatedb.

The modules, top to bottom; each uses only those below it:

    candidates          a candidate for the ownership of a store
    election_in_bucket  elections in a bucket
    election_in_folder  elections in a local folder: a lock file
    fitness             what the queue needs of an object store, each need tried out by a function
    inbox               the objects of a store's inbox
    payloads            large payloads, each an object of its own, named by its job
    probe               requests that try out an object store
    client              plain requests to an object store, beside the database
    user_objects        caller-owned objects: values too large for an entry
    space               objects beside the database: large values
    bucket_listing      the keys of a bucket, listed in spite of refusals and of strange keys
    signed_listing      listing an S3 bucket that holds keys which the client cannot read
    folder_files        objects in a local folder: files that are found by name
    wake                word from producers on the same machine that something is in the inbox
    owner_address       where processes of one machine meet the owner of a store
    disk                why the engine cannot write to a local folder: it says only that it cannot
    problems            what is wrong with an object store, in words that say what to do about it
    owner_lock          lock files in a store folder that tell other processes of this machine
    file_lock           lock files
    repeating           asking a bucket again: one answer that says no may be wrong
    places              what has worked where, in this process: the one rule for refusals that pass
    election            who of several processes opens a store
    folder              durability of a local folder
    forks               what is open and a forked child must not keep
    integrity           what objects beside the database are checked by, each time they are read
    object_info         an object as listings show it
    left_alone          things in a store's places that are not ours: left as they are
    limits              bounds that everything which talks to a store has in common
    location            store URLs: where a store lives
    user_folder         a folder of the temporary ones that belongs to this user alone, for sockets
"""
