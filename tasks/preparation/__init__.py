"""Which way a model is run on a machine, and for which of its rows; decided before children are forked.

candidates, promises --names--> trial (rows, edge_cases, calibration; gate, agreement, trusted) --Trials--> choice
"""
