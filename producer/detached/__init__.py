"""A job that goes on without its producer: its plan, its submission, who watches it, and what attaches to it."""
