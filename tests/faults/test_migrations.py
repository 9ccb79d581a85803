"""An upgrade happens whole or not at all, wherever it is cut off, and keeps every row."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.history import soundness
from ci.history.database import Database, connect_reader
from ci.history.schema import migrations, migrations_directory, version
from tests.fakes import cut_migration
from tests.fakes.old_history import Rows, columns, old_history, rows, schema

NEWEST = max(migrations(migrations_directory()))
LEAST_CUTS = {"upgrade": 15, "copy": 10}


@dataclass(frozen=True)
class Before:
    """What a history held before its upgrade."""

    columns: Mapping[str, list[str]]
    rows: Rows


@pytest.mark.parametrize("old", range(1, NEWEST))
async def test_an_upgraded_history_is_like_a_fresh_one_with_every_row(
    tmp_path: Path, old: int
) -> None:
    path, fresh = tmp_path / "history.db", tmp_path / "fresh.db"
    before = await asyncio.to_thread(_old, path, old)
    for each in (path, fresh):
        await (await Database.open(each)).close()
    wanted, found = await asyncio.to_thread(_schemas, fresh, path)
    assert found == wanted
    copy = path.with_name(f"history.db.before-upgrade-from-{old}")
    for kept in (path, copy):
        assert await asyncio.to_thread(_look, kept, before) == before.rows


def _old(path: Path, number: int) -> Before:
    old_history(path, number)
    with closing(connect_reader(path)) as connection:
        present = columns(connection)
        return Before(present, rows(connection, present))


def _look(path: Path, before: Before) -> Rows:
    """The rows of a sound history at `path`, in the columns that were there before."""
    with closing(connect_reader(path)) as connection:
        soundness.look_through(connection, path)
        return rows(connection, before.columns)


def _schemas(*paths: Path) -> list[list[tuple[str, ...]]]:
    found = []
    for path in paths:
        with closing(connect_reader(path)) as connection:
            found.append(schema(connection))
    return found


@pytest.mark.faults
@pytest.mark.parametrize("what", ["upgrade", "copy"])
async def test_an_upgrade_killed_at_any_step_is_made_by_the_next_start(
    tmp_path: Path, what: str
) -> None:
    old, folder = tmp_path / "old.db", tmp_path / "cut"
    before = await asyncio.to_thread(_old, old, NEWEST - 1)
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, cut_migration.__file__, what, str(old), str(folder)],
        check=True,
    )
    cuts = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(cuts) > LEAST_CUTS[what]
    for path in (cut / "history.db" for cut in cuts):
        database = await Database.open(path)
        assert await database.read(version) == NEWEST
        await database.close()
        assert await asyncio.to_thread(_look, path, before) == before.rows, path
        copies = list(path.parent.glob("*.before-upgrade-from-*"))
        for copy in copies:
            assert await asyncio.to_thread(_look, copy, before) == before.rows, copy
        assert copies or what == "upgrade"
