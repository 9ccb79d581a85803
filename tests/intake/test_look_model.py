"""Any history of a remote, told by webhooks in part, late, twice: one look puts it right."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings, strategies as st

from ci.history.database import Database
from tests.fakes.push import ZERO
from tests.intake.town import Rows, Town

BRANCHES = ("dev", "main")

Step = tuple[str, str, int]


@dataclass(frozen=True)
class Move:
    """What GitHub would tell of one push."""

    branch: str
    before: str
    after: str
    commits: tuple[str, ...]
    forced: bool


@dataclass
class Remote:
    """Moves branches of the origin, and remembers each move and each commit."""

    town: Town
    moves: list[Move] = field(default_factory=list)
    shas: list[str] = field(default_factory=list)

    def git(self, *args: str) -> list[str]:
        return self.town.origin.git(*args).decode().split()

    def step(self, what: str, branch: str, number: int) -> None:
        """Do it if it can be done now."""
        origin, old = self.town.origin, self.town.origin.find(branch)
        if what == "commit":
            self.shas += origin.commits(1 + number % 3, branch=branch)
        elif what == "move" and self.shas:
            origin.branch(branch, self.shas[number % len(self.shas)])
        elif what == "rewrite" and self.shas:
            onto = self.shas[number % len(self.shas)]
            self.shas.append(origin.force(onto, {"f": str(number)}, branch=branch))
        elif what == "delete" and old:
            origin.delete(branch)
        new = origin.find(branch)
        if new != old:
            self.moves.append(self._move(branch, old, new))

    def _move(self, branch: str, old: str | None, new: str | None) -> Move:
        if new is None:
            return Move(branch, old or ZERO, ZERO, (), False)
        if old is None:
            return Move(branch, ZERO, new, (new,), False)
        added = self.git("rev-list", "--reverse", "--topo-order", new, f"^{old}")
        forced = bool(self.git("rev-list", "--max-count=1", old, f"^{new}"))
        return Move(branch, old, new, tuple(added or [new]), forced)

    def ancestors(self, new: str) -> set[str]:
        return set(self.git("rev-list", new))


async def tell(town: Town, move: Move) -> None:
    await town.push(
        move.before,
        *move.commits,
        branch=move.branch,
        after=move.after,
        forced=move.forced,
        created=move.before == ZERO,
        deleted=move.after == ZERO,
    )


async def snapshot(town: Town) -> list[Rows]:
    return [
        await town.rows("SELECT number, sha, state, cause, attempt FROM builds"),
        await town.rows("SELECT * FROM branch_commits ORDER BY branch, position"),
        await town.rows("SELECT branch, sha, seen_at, etag FROM watched_branches"),
        await town.rows("SELECT build, context, state FROM outbox ORDER BY id"),
    ]


async def check(
    town: Town, remote: Remote, seen: dict[str, str], told: set[str]
) -> None:
    """What must hold after a look.

    `seen` are the heads after the look before it, `told` the commits that GitHub has told
    of since: what was pushed and taken away meanwhile may be built all the same.
    """
    states = {build.sha: build.state for build in await town.builds()}
    heads = {branch: town.origin.find(branch) for branch in BRANCHES}
    alive: set[str] = set()
    for branch, head in heads.items():
        if head is None:
            continue
        alive |= remote.ancestors(head)
        assert (await town.order(branch))[-1] == head
        assert states[head] in ("queued", "succeeded")
        old = seen.get(branch)
        if old in remote.ancestors(head):
            wanted = remote.ancestors(head) - remote.ancestors(old)
            assert {states[sha] for sha in wanted} <= {"queued", "succeeded"}
    waiting = {sha for sha, state in states.items() if state == "queued"}
    assert waiting <= alive | told
    before = await snapshot(town)
    assert await town.look() == 0
    assert await snapshot(town) == before
    told.clear()
    seen.clear()
    seen.update({branch: head for branch, head in heads.items() if head})


async def live(steps: Sequence[Step], folder: Path) -> None:
    database = await Database.open(folder / "history.sqlite")
    try:
        town = await Town(database, folder).open()
        remote, seen, told = Remote(town), dict[str, str](), set[str]()
        for what, branch, number in [*steps, ("look", "dev", 0)]:
            if what == "look":
                await town.look()
                await check(town, remote, seen, told)
            elif what == "build":
                await town.finish()
            elif what == "tell" and remote.moves:
                # Mostly the last one, as it happens.
                index = 0 if number % 2 else number % len(remote.moves)
                move = remote.moves[-1 - index]
                await tell(town, move)
                told.update(move.commits)
                if move.after == ZERO:
                    seen.pop(move.branch, None)
            else:
                await asyncio.to_thread(remote.step, what, branch, number)
    finally:
        await database.close()


STEPS: Any = st.lists(
    st.tuples(
        st.sampled_from(
            ["commit", "commit", "move", "rewrite", "delete", "tell", "look", "build"]
        ),
        st.sampled_from(BRANCHES),
        st.integers(0, 9),
    ),
    min_size=4,
    max_size=10,
)


@given(STEPS)
@example(
    [
        ("commit", "dev", 2),
        ("look", "dev", 0),
        ("rewrite", "dev", 1),
        ("tell", "dev", 1),
        ("tell", "dev", 2),
        ("look", "dev", 0),
    ]
)
@settings(max_examples=10, deadline=None, print_blob=True)
def test_after_a_look_the_history_is_the_remotes(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(steps, Path(folder)))
