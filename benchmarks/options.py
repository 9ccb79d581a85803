"""What a person can choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """`rounds`: how often each thing is measured, in turn with what it is compared to."""

    rounds: int
