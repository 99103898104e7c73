"""A slot: a child process that holds models, takes one chunk at a time, runs it, and answers."""
