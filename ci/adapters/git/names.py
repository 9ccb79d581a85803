"""Names of commits and branches: which may reach git at all."""

from __future__ import annotations

import os
import re

from ci.errors import CommitVanished

FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
PREFIX = re.compile(r"[0-9a-f]{7,64}")
# What git-check-ref-format(1) forbids after `refs/heads/`.
BAD_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^/|/$|\.$|(?:^|/)\.|\.lock(?:/|$)|^$"
)


def check_id(sha: str) -> None:
    """Raise CommitVanished unless `sha` is written out: no commit has another name."""
    if not FULL_ID.fullmatch(sha):
        raise CommitVanished(f"`{sha}` is not the full id of a commit")


def possible_branch(branch: str) -> bool:
    """Whether git could have a branch of this name; any such name is harmless here."""
    try:
        os.fsencode(branch)
    except UnicodeEncodeError:
        return False
    return BAD_BRANCH.search(branch) is None
