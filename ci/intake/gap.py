"""Commits of a branch that nobody told of: between what was built and its head."""

from __future__ import annotations

from collections.abc import Sequence

from ci.adapters.git import Mirror
from ci.adapters.git.reach import MOST_COMMITS, first_below
from ci.models import Commit


async def missing(
    mirror: Mirror, head: str, known: Sequence[str], most: int = MOST_COMMITS
) -> list[Commit]:
    """The commits from the first of `known` that leads to `head` up to it, oldest first.

    `head` must be in the mirror, and is always the last. It stands alone where nothing
    known leads to it: a branch that is new, or whose history was written anew.
    """
    old = await first_below(mirror, head, known)
    commits = [] if old is None else await mirror.rev_list(head, old, most)
    return commits or [await mirror.commit(head)]
