"""How rows become files: a `Writer` for each format, used by the producer's sinks and by workers alike."""
