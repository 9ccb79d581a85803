"""Which commits lead to which: questions that a commit's absence answers, too."""

from __future__ import annotations

from collections.abc import Sequence

from ci.adapters.git import Mirror
from ci.errors import CommitVanished

# More than any payload tells, and a bound for one `git log`.
MOST_COMMITS = 10_000


async def reaches(mirror: Mirror, new: str, old: str) -> bool:
    """Whether `new` contains `old`; not when one of them is not in the mirror."""
    try:
        return await mirror.is_ancestor(old, new)
    except CommitVanished:
        return False


async def first_below(mirror: Mirror, head: str, known: Sequence[str]) -> str | None:
    """The first of `known` that `head` contains; mostly it is the first of all."""
    if known and await reaches(mirror, head, known[0]):
        return known[0]
    below = await _below(mirror, head) if known else set()
    return next((sha for sha in known if sha in below), None)


async def left_behind(
    mirror: Mirror, head: str, waiting: Sequence[tuple[int, str]]
) -> list[int]:
    """Which of the (number, SHA) are of commits that `head` does not contain."""
    below = await _below(mirror, head) if waiting else set()
    unsure = [(number, sha) for number, sha in waiting if sha not in below]
    return [number for number, sha in unsure if not await reaches(mirror, head, sha)]


async def _below(mirror: Mirror, head: str) -> set[str]:
    """The newest commits that `head` contains: one git for many questions."""
    return {commit.sha for commit in await mirror.rev_list(head, None, MOST_COMMITS)}
