"""The history: every SQL statement of the system."""
