"""Small predictions, which take one message out and one answer back instead of a job."""
