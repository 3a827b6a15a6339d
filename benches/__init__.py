"""The benches: one module per question. See README.md beside this file."""
