"""Several processes that share a store: one owns it and works, all of them enqueue."""
