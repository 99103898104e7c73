"""What is seen of a worker: stages, counters, metrics, its status file, logs, and spans."""
