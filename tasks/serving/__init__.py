"""Requests between chunks: a child that waits for its next chunk takes what callers wait for, as one batch."""
