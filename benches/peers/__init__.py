"""The same work for taquba and for other job queues. See README.md beside this file."""
