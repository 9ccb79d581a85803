"""The end of a run: everything is healed, and then every promise must have been kept."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing

from ci.history.paths import log_path
from ci.models import BuildState
from tests.end_to_end.server import marked_processes
from tests.fakes.github import Status
from tests.fakes.invariants import broken, check, history
from tests.fakes.waiting import wait_until
from tests.model.driver import Driver
from tests.model.refs import Commit

CONVERGENCE = 120.0
# A server at work has a few dozen open files; a leak of one per build would show.
MOST_FILES = 90
OWN_LINE = b"build-server: "


async def settle(driver: Driver) -> None:
    """Heal what was broken, wait for what is owed, stop; raise for what is wrong."""
    await driver.connect("up")
    await driver.outage(up=True)
    await driver.thaw()
    await driver.start()
    if not driver.reconcile:
        for push in list(driver.model.pushes):
            if push.held:
                await driver.late(0)

    def wrong() -> list[str]:
        """What is missing; then what is wrong; then what is not as the model has it."""
        told, taken = driver.world.acknowledged, driver.github.taken
        return (
            list(_owed(driver))
            or broken(driver.world.state_dir, taken, told)
            or list(_otherwise(driver))
        )

    async def kept() -> bool:
        return not await asyncio.to_thread(wrong)

    try:
        await wait_until(kept, CONVERGENCE, what="every promise kept")
    except AssertionError:
        raise AssertionError("\n".join(wrong())) from None
    driver.observe()
    server = driver.server
    assert server is not None
    await check(driver.world, server, driver.github)
    await driver.stop(1)
    left = await marked_processes(driver.world.state_dir)
    assert not left, f"processes of builds are left: {left}"
    assert not driver.github.violations, driver.github.violations


def _owed(driver: Driver) -> Iterator[str]:
    """Commits that must have a build and have none yet."""
    owed = driver.model.owed()
    if driver.reconcile:
        owed |= driver.model.found_by_looking()
    with closing(history(driver.world.state_dir)) as connection:
        built = {row["sha"] for row in connection.execute("SELECT sha FROM builds")}
    for sha in sorted(owed - built):
        commit = driver.model.commits[sha]
        yield f"{sha[:7]} of {commit.repo} ({commit.line[0]}) has no build"


def _otherwise(driver: Driver) -> Iterator[str]:
    yield from _overlaps(driver)
    if driver.most_files > MOST_FILES:
        yield f"the server had {driver.most_files} open files"
    with closing(history(driver.world.state_dir)) as connection:
        rows = connection.execute("SELECT * FROM builds ORDER BY number").fetchall()
    for row in rows:
        commit = driver.model.commits[row["sha"]]
        name = f"build #{row['number']} of a commit that {commit.script}"
        if not commit.allows(row["state"], driver.kills):
            yield f"{name} is {row['state']}: {row['summary']}"
        yield from _wrong_log(driver, row, commit, name)
        if not commit.touched and not commit.exposed:
            yield from _two_verdicts(driver.github.statuses(row["sha"]), name)
    if driver.reconcile:
        states = {row["sha"]: row["state"] for row in rows}
        for head in driver.model.watched_heads():
            if states.get(head.sha) == BuildState.SKIPPED:
                yield f"{head.sha[:7]} is the head of {head.line[0]}, and was skipped"


def _overlaps(driver: Driver) -> Iterator[str]:
    file = driver.folder / "locks/overlaps"
    if file.exists():
        yield f"commands overlapped: {file.read_text()}"


def _wrong_log(
    driver: Driver, row: sqlite3.Row, commit: Commit, name: str
) -> Iterator[str]:
    """The log of a verdict is what the script wrote, then one line of our own."""
    if row["state"] not in (BuildState.SUCCEEDED, BuildState.FAILED):
        return
    path = log_path(driver.world.state_dir, row["number"], row["attempt"])
    written = path.read_bytes()
    own = written.removeprefix(commit.output).lstrip(b"\n")
    if not (
        written.startswith(commit.output)
        and own.startswith(OWN_LINE + row["state"].encode())
        and own.count(b"\n") == 1
    ):
        yield f"{name} has another log than its script wrote: {own[-300:]!r}"


def _two_verdicts(told: list[Status], name: str) -> Iterator[str]:
    """GitHub never hears of a second verdict, nor of a pending after the verdict."""
    states = [status.state for status in told if status.context == "build-server"]
    finals = [state for state in states if state != "pending"]
    if len(set(finals)) > 1 or (
        finals and "pending" in states[states.index(finals[0]) :]
    ):
        yield f"{name} was told to GitHub as {', '.join(states)}"
