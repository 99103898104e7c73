"""What travels between producer and workers: messages, records, Redis keys, and how arrays become bytes."""
