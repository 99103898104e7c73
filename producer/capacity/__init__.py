"""Capacity planning: measured costs --> a simulation of the whole system --> how long, what limits, what to change."""
