"""Before a job: are our packages found, and what would a run be like."""
