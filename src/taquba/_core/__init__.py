"""Transitions: what a job becomes, as pure functions."""
