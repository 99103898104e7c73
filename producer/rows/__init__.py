"""Rows and parts as values: what a source gives, columns, batches cut anew, and parts put together."""
