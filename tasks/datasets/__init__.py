"""What stands in files --a reader for each format--> rows; on the producer's side and in the workers alike."""
