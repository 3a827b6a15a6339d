"""Worker loops: run handlers on what a queue hands out."""
