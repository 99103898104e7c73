"""Whether outputs are right: bounds, comparisons, rows that hurt, and the graph in float64 that is the measure."""
