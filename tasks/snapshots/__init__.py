"""Keeps models in a form that children load at once and share: see `record` for what a snapshot is."""
