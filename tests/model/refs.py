"""The model: the refs of every remote, what was told of them, and what must follow.

It knows nothing of the server. Commits carry the verdict that their script asks for, so
that the model can say how each build must end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ci.models import BuildState

NEVER = float("inf")
# A build during which the server itself died so often ends as an error.
DEATHS = 5


class Script(StrEnum):
    """What a commit's command does."""

    PASSES = "passes"
    FAILS = "fails"
    DAWDLES = "dawdles"
    KILLS_ITSELF = "kills itself"


VERDICTS = {
    Script.PASSES: BuildState.SUCCEEDED,
    Script.FAILS: BuildState.FAILED,
    Script.DAWDLES: BuildState.SUCCEEDED,
    # A command that was killed proves nothing: tried three times, then ours.
    Script.KILLS_ITSELF: BuildState.ERROR,
}


@dataclass
class Commit:
    """One commit of a remote. `output` is what its script writes, byte for byte.

    `wanted`: something that was acknowledged asks for its build; `told`: the number of
    the first push among those that did.
    `exposed`: it was taken off a watched branch, so that its build may be skipped; that
    another branch has it may not be known yet.
    `touched`: somebody asked for a retry, so that GitHub may see a second verdict.
    `cancelled`: it may have been cancelled, and nothing later asked for it for certain;
    `stays`: it was seen to end like that, and nobody asked for it since.
    """

    sha: str
    repo: str
    parent: str | None
    script: Script
    output: bytes
    line: tuple[str, int]
    wanted: bool = False
    told: float = NEVER
    exposed: bool = False
    touched: bool = False
    cancelled: bool = False
    stays: BuildState | None = None

    def allows(self, state: str, kills: int) -> bool:
        """Whether its build may end like this; the server was killed `kills` times."""
        return self.stays in (None, state) and (
            state == VERDICTS[self.script]
            or (state == BuildState.SKIPPED and self.exposed)
            or (state == BuildState.CANCELLED and self.cancelled)
            or (state == BuildState.ERROR and kills >= DEATHS)
        )


@dataclass
class Push:
    """One move of a branch as GitHub would tell it; `shas` are the commits it names."""

    guid: str
    body: bytes
    repo: str
    branch: str
    shas: tuple[str, ...]
    held: bool = False


@dataclass
class Remotes:
    """All repositories: `watched` branches of each, heads, commits and pushes."""

    watched: dict[str, tuple[str, ...]]
    heads: dict[tuple[str, str], str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    pushes: list[Push] = field(default_factory=list)
    # Counts rewrites of a branch: commits of one count follow each other.
    lives: dict[tuple[str, str], int] = field(default_factory=dict)
    news: int = 0

    def line(self, repo: str, branch: str) -> tuple[str, int]:
        """Names the stretch of a branch that has only grown since its last rewrite."""
        return f"{repo} {branch}", self.lives.get((repo, branch), 0)

    def chain(self, sha: str | None) -> Iterator[str]:
        """A commit and all before it, newest first."""
        while sha is not None:
            yield sha
            sha = self.commits[sha].parent

    def added(self, before: str | None, after: str) -> list[str]:
        """The commits that a branch gets by moving, oldest first."""
        old = set(self.chain(before))
        return [sha for sha in self.chain(after) if sha not in old][::-1]

    def grow(
        self, repo: str, branch: str, parent: str | None, commits: Sequence[Commit]
    ) -> None:
        """Add new commits to a branch, oldest first."""
        for commit in commits:
            self.commits[commit.sha] = commit
        self.move(repo, branch, commits[-1].sha if commits else parent)

    def move(self, repo: str, branch: str, sha: str | None) -> None:
        """Move, make or (None) delete a branch."""
        if branch in self.watched[repo]:
            kept = set(self.chain(sha))
            for gone in self.chain(self.heads.get((repo, branch))):
                if gone not in kept:
                    self.commits[gone].exposed = True
        if sha is None:
            self.heads.pop((repo, branch), None)
        else:
            self.heads[repo, branch] = sha

    def rewritten(self, repo: str, branch: str) -> None:
        """The branch was deleted, made or forced: what comes is another line."""
        self.lives[repo, branch] = self.lives.get((repo, branch), 0) + 1

    def acknowledge(self, push: Push) -> None:
        """The server has taken the push: it owes a build of each commit it names."""
        self.news += 1
        if push.branch in self.watched[push.repo]:
            for sha in push.shas:
                commit = self.commits[sha]
                commit.wanted, commit.told = True, min(commit.told, self.news)

    def watched_heads(self) -> Iterator[Commit]:
        """The heads of the branches that are built."""
        for (repo, branch), sha in self.heads.items():
            if branch in self.watched[repo]:
                yield self.commits[sha]

    def owed(self) -> set[str]:
        """Commits that must have a build, given what has been acknowledged."""
        return {sha for sha, commit in self.commits.items() if commit.wanted}

    def found_by_looking(self) -> set[str]:
        """Commits that must have a build once every branch has been looked at.

        The heads, and what lies between a head and anything known of the same line. What
        was told only after something above it is old news, and says nothing of a gap.
        """
        found = set()
        for head in self.watched_heads():
            gap: list[str] = []
            first = NEVER
            for sha in self.chain(head.sha):
                commit = self.commits[sha]
                if commit.line != head.line:
                    break
                gap.append(sha)
                if commit.told < first:
                    found.update(gap)
                    first = commit.told
            found.add(head.sha)
        return found
