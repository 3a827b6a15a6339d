"""The one door to the store: transaction, group commit, SlateDB, durable folders."""
