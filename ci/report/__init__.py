"""Telling GitHub the verdict."""
