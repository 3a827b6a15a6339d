"""The facade `Queue` and the operations behind it."""
