"""Fit, synthesise, filter, train the downstream model, evaluate: each computed once, by the hash of what it depends on.
Knows one experiment: no sweep, no promotion."""
