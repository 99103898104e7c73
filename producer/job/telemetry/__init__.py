"""What is seen of an attached job: its record in Redis, progress, metrics, a span, and its settings as text."""
