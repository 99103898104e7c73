"""One program for each system, which runs in the system's own environment, and what they share (`work.py`)."""
