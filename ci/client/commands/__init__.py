"""One module per verb; each has `run(session) -> int`, the exit code."""
