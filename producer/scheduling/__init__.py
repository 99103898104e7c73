"""Decisions without I/O: how large chunks are, which queue and route they take, when one is late, and what ends a
job."""
