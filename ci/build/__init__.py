"""Turning queued commits into verdicts."""
