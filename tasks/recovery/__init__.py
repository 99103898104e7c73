"""Rows that kill or fail: which deliveries a chunk had, which rows are suspected, and how bad ones are found."""
