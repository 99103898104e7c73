"""How a process of either side shows what it does: metrics over HTTP, spans to a collector."""
