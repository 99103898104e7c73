"""What is written down of a job: its record in Redis, its ledger, failures, timeline, and throughput."""
