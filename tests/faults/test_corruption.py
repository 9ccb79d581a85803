"""A damaged history is refused in one sentence, or holds what it held: nothing between.

Hundreds of damages, each from its own seed, done to a history that was closed, and to one
whose server was killed, with its log. A failure names the seed; CORRUPTION_SEEDS=n,m
chooses others.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from ci.errors import HistoryError
from ci.history import builds, outbox, paths, queue
from ci.history.database import Database, connect_writer
from ci.history.paths import database_path
from ci.history.schema import migrations, migrations_directory
from tests.end_to_end.server import World
from tests.fakes.history import CONTEXT, push
from tests.fakes.old_history import Rows, columns, old_history, rows
from tests.faults.worlds import mortal_world, script, serve_once

PAGE = 4096
NEWEST = max(migrations(migrations_directory()))
SEEDS = range(*map(int, os.environ.get("CORRUPTION_SEEDS", "0,200").split(",")))
# What only people read: another letter in it cannot be told from the right one.
FOR_PEOPLE = {
    "attempts": {"reason", "log_removed"},
    "builds": {"title", "author", "summary", "branch"},
    "deliveries": {"body_sha256", "event", "reason", "ref", "before_sha", "after_sha"},
    "instances": {"boot_id"},
    "outbox": {"error", "target"},
    "requests": {"asked_by", "body", "answer"},
}
SHOWN = {"derivations", "targets"}
# Numbers that no other row and no rule binds.
FREE = re.compile(
    r"seconds|counted|deaths|head|forced|attempt|tries|pid|pid_start|.*_at"
)
REFUSED, RIGHT = "refused", "right"
# The exit code with which systemd is told not to start it again.
NEEDS_A_PERSON = 3
TOLD = 30  # pushes of one commit each, in the log of the killed server


@dataclass(frozen=True)
class Template:
    """Two histories, and what they hold: `after[n]` is the killed one after `n` pushes."""

    folder: Path
    closed: Rows
    after: list[Rows]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    """`closed.db`, and `killed.db` with the log that a killed server leaves."""
    folder = tmp_path_factory.mktemp("template")
    old_history(folder / "closed.db", NEWEST)
    old_history(folder / "killed.db", NEWEST)
    with closing(connect_writer(folder / "killed.db")) as writer:
        after = [_facts(writer)]
        for number in range(1000, 1000 + TOLD):
            writer.execute("BEGIN IMMEDIATE")
            push(writer, number - 1, number)
            writer.execute("COMMIT")
            after.append(_facts(writer))
        copies = folder / "copies"
        copies.mkdir()
        for name in ("killed.db", "killed.db-wal"):
            shutil.copy(folder / name, copies)
    shutil.copytree(copies, folder, dirs_exist_ok=True)
    return Template(folder, after[0], after)


def _facts(connection: sqlite3.Connection) -> Rows:
    """All that decisions rest on."""
    wanted = {
        table: [
            name
            for name in names
            if name not in FOR_PEOPLE.get(table, ()) and not FREE.fullmatch(name)
        ]
        for table, names in columns(connection).items()
        if table not in SHOWN
    }
    return rows(connection, wanted)


def flip(dice: random.Random, content: bytearray) -> None:
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def garble(dice: random.Random, content: bytearray) -> None:
    place = dice.randrange(len(content))
    length = min(dice.choice([4, 64, 512]), len(content) - place)
    content[place : place + length] = dice.randbytes(length)


def blank(dice: random.Random, content: bytearray) -> None:
    place = dice.randrange(0, len(content), PAGE)
    content[place : place + PAGE] = bytes(len(content[place : place + PAGE]))


def repeat(dice: random.Random, content: bytearray) -> None:
    """A page that was written to the place of another one."""
    here, there = (dice.randrange(len(content) // PAGE) * PAGE for _ in range(2))
    content[here : here + PAGE] = content[there : there + PAGE]


def header(dice: random.Random, content: bytearray) -> None:
    content[dice.randrange(32)] = dice.randrange(256)


def cut(dice: random.Random, content: bytearray) -> None:
    del content[dice.randrange(len(content)) :]


def empty(_: random.Random, content: bytearray) -> None:
    content.clear()


DAMAGES = (flip, flip, flip, garble, garble, blank, repeat, header, cut, empty)


@dataclass(frozen=True)
class Case:
    """What the seed makes of it: the history in `path`, and what it may hold then."""

    path: Path
    what: str
    allowed: list[Rows]


def _case(template: Template, folder: Path, seed: int) -> Case:
    dice = random.Random(seed)
    killed = dice.random() < 0.6
    of_log = killed and dice.random() < 0.5
    damage = dice.choice(DAMAGES)
    path = folder / "history.db"
    name = "killed.db" if killed else "closed.db"
    shutil.copy(template.folder / name, path)
    if killed:
        shutil.copy(template.folder / f"{name}-wal", f"{path}-wal")
    file = Path(f"{path}-wal") if of_log else path
    (folder / "logs/0/40").mkdir(parents=True)  # a build has a log
    content = bytearray(file.read_bytes())
    damage(dice, content)
    file.write_bytes(content)
    allowed = [template.after[-1]] if killed else [template.closed]
    if of_log and damage in (cut, empty):
        allowed = template.after  # as after a power loss: an earlier state, and whole
    elif of_log:
        allowed = template.after[-3:]  # the end of a log may be torn by a power loss
    what = f"seed {seed}: {damage.__name__} of {name}{'-wal' * of_log}"
    return Case(path, what, allowed)


async def _judge(case: Case) -> str:
    """`refused` or `right`; anything else is what is wrong."""
    try:
        database = await Database.open(case.path)
    except HistoryError as error:
        sentence = str(error)
        if "\n" in sentence or str(case.path) not in sentence:
            return f"{case.what}: no sentence: {error!r}"
        return REFUSED
    except Exception as error:
        return f"{case.what}: {type(error).__name__} at the start: {error}"
    try:
        if await database.read(_facts) not in case.allowed:
            return f"{case.what}: it is taken, and wrong"
        await database.write(push, 5000, 5001)
        await database.write(queue.claim, instance=1, at=2**41, context=CONTEXT)
        await database.write(outbox.begin, 2**41)
        for build in await database.read(builds.page, limit=200):
            await database.read(builds.get, build.number)
    except Exception as error:
        return f"{case.what}: {type(error).__name__} in use: {error}"
    finally:
        await database.close()
    return RIGHT


async def test_a_damaged_history_is_refused_or_right(
    template: Template, tmp_path: Path
) -> None:
    ends = []
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        await asyncio.to_thread(folder.mkdir)
        case = await asyncio.to_thread(_case, template, folder, seed)
        ends.append(await _judge(case))
        await asyncio.to_thread(shutil.rmtree, folder)
    wrong = [end for end in ends if end not in (REFUSED, RIGHT)]
    assert not wrong, "\n".join(wrong)
    # Both happen often, or the damages are none, or everything is refused.
    assert min(ends.count(REFUSED), ends.count(RIGHT)) > len(ends) // 10


def _rarely(*values: object) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.faults)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("history.db", b"", "it is empty, but there are logs of builds"),
        _rarely("history.db", b"SQLite format 3\0" + bytes(4080), "is damaged"),
        _rarely("history.db", b"#!/bin/sh\n" * 1000, "file is not a database"),
        _rarely("history.db-wal", bytes(8192), "is not what was written"),
    ],
)
async def test_the_server_says_what_is_damaged_and_what_to_do_and_starts_no_more(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    async with mortal_world(tmp_path / "world") as world:
        await _built(world, "first")
        backup = paths.backup_path(world.state_dir)
        await asyncio.to_thread(backup.parent.mkdir, exist_ok=True)
        await asyncio.to_thread(shutil.copy, database_path(world.state_dir), backup)
        file = world.state_dir / name
        await asyncio.to_thread(file.write_bytes, content)
        code, said = await serve_once(world)
        assert (code, len(said.splitlines())) == (NEEDS_A_PERSON, 1), said
        path = world.state_dir / "history.db"
        for part in (sentence, f"`mv {path} {path}-* /var/tmp/`", f"{backup} is one"):
            assert part in said
        assert await asyncio.to_thread(file.read_bytes) == content
        # What it says to do helps.
        for old in path.parent.glob("history.db*"):
            old.unlink()
        await asyncio.to_thread(shutil.copy, backup, path)
        async with world.server() as server:
            assert (await server.build(1))["state"] == "succeeded"


async def test_without_a_history_the_server_starts_anew_and_says_so(
    tmp_path: Path,
) -> None:
    async with mortal_world(tmp_path / "world") as world:
        await _built(world, "first")
        for old in world.state_dir.glob("history.db*"):
            old.unlink()
        sha = world.origin.commit(script("echo second"), executable=["ci"])
        async with world.server() as server:
            assert any("1 builds have logs and are not" in line for line in server.raw)
            assert (await server.push(sha))["builds"] == [2]
            assert (await server.finished(2))["state"] == "succeeded"


async def _built(world: World, word: str) -> None:
    """One build, and an orderly end."""
    sha = world.origin.commit(script(f"echo {word}"), executable=["ci"])
    async with world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        await server.stop()
