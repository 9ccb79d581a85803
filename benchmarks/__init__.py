"""Measurements of the real parts, side by side with their floors in the same run."""
