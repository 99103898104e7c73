"""Rows of an output that had failed are put into it, when they have been predicted again."""
