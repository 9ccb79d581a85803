"""build-server: a push-driven CI builder for Nix flakes."""

__version__ = "0.1.0"
