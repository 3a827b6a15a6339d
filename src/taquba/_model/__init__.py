"""Vocabulary: keys, codec, records, options, clock, errors. No I/O happens here."""
