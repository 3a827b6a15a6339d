"""Producers: requests from processes that do not own the store. Nothing here needs the engine."""
