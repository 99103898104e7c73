"""Other systems for the same work, each in an environment of its own: `make peers`."""
