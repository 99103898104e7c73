"""One attached job: chunks from a source to the queues, answers from Redis to parts in order."""
