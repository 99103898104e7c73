"""What a producer has to do with Redis: its servers, and the channels of jobs."""
