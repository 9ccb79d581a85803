"""What came to the public door and was turned away: a note for whoever sets it up.

The note is in memory and holds one entry of each kind: what a stranger sends leaves
nothing else behind, and cannot fill anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Why a delivery was refused: no signature, a wrong one, a body that is not JSON."""

    UNSIGNED = "unsigned"
    SIGNATURE = "signature"
    FORM = "form"
    OTHER = "other"


@dataclass(frozen=True)
class Refusal:
    """One delivery that was refused at `at` (ms since the epoch).

    `hook` and `media` are what its sender claims, printable or empty; only with
    `signed` is the sender who he says.
    """

    at: int
    fault: Fault
    hook: str
    media: str
    signed: bool


# What keeps coming is news once in so many milliseconds, however fast it comes.
NEWS_EVERY = 5000


class Door:
    """Give `note` to the intake; `last` tells what was refused since `after` (ms).

    `news` is called when there is something to see, but not for each of many.
    """

    def __init__(self, news: Callable[[], None]) -> None:
        self._news = news
        self._told = 0
        self._last: dict[Fault, Refusal] = {}

    def note(self, refusal: Refusal) -> None:
        """Keep the newest of each kind."""
        self._last[refusal.fault] = refusal
        if abs(refusal.at - self._told) >= NEWS_EVERY:
            self._told = refusal.at
            self._news()

    def last(self, after: int = 0) -> Refusal | None:
        """The newest refusal of a delivery that claims to be GitHub's.

        Nobody signs by accident: what has no signature at all is told only when there
        is nothing else.
        """
        recent = [refusal for refusal in self._last.values() if refusal.at > after]
        return max(
            recent,
            key=lambda each: (each.fault is not Fault.UNSIGNED, each.at),
            default=None,
        )


Note = Callable[[Refusal], None]
