"""A delivery counts once, and branch order survives whatever order the news came in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, strategies as st

from ci.history import branches, builds, queue
from ci.models import BuildState
from tests.fakes.history import CONTEXT, REPO, memory, push, sha


@pytest.fixture
def history() -> Iterator[sqlite3.Connection]:
    with closing(memory()) as connection:
        yield connection


def _order(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT b.sha FROM branch_commits c JOIN builds b ON b.number = c.build "
        "WHERE c.branch = 'dev' ORDER BY c.position"
    )
    return [row["sha"][:4] for row in rows]


def test_the_same_delivery_again_changes_nothing(history: sqlite3.Connection) -> None:
    first = push(history, 0, 1, 2, guid="g")
    dump = list(history.iterdump())
    again = push(history, 0, 1, 2, guid="g")
    assert (again.accepted, again.duplicate, again.builds) == (True, True, first.builds)
    assert list(history.iterdump()) == dump


def test_each_commit_gets_one_build_and_only_the_head_a_pending(
    history: sqlite3.Connection,
) -> None:
    receipt = push(history, 0, 1, 2, 3)
    assert [builds.get(history, n).sha[:4] for n in receipt.builds] == [  # type: ignore[union-attr]
        "0001",
        "0002",
        "0003",
    ]
    again = push(history, 2, 3, 4)
    assert again.builds[0] == receipt.builds[2]
    posts = history.execute("SELECT sha FROM outbox ORDER BY id").fetchall()
    assert [row["sha"] for row in posts] == [sha(3), sha(4)]


def test_a_push_that_was_overtaken_goes_below_the_one_that_overtook_it(
    history: sqlite3.Connection,
) -> None:
    push(history, 2, 3)
    push(history, 0, 1, 2)
    assert _order(history) == ["0001", "0002", "0003"]
    newest = builds.newest(history, REPO, "dev")
    assert newest is not None
    assert newest.sha == sha(3)


def test_a_force_push_to_an_old_commit_makes_it_the_newest(
    history: sqlite3.Connection,
) -> None:
    push(history, 0, 1, 2, 3)
    push(history, 3, 1, forced=True)
    newest = builds.newest(history, REPO, "dev")
    assert newest is not None
    assert newest.sha == sha(1)


@given(st.permutations(range(1, 7)), st.data())
def test_git_puts_any_order_right(shuffled: list[int], data: st.DataObject) -> None:
    known = data.draw(st.sets(st.integers(1, 6), min_size=2))
    with closing(memory()) as history:
        for number in shuffled:
            push(history, number - 1, number)
        before = _order(history)
        branches.sort(history, 1, "dev", [sha(n) for n in sorted(known)])
        after = _order(history)
    ordered = [int(name) for name in after if int(name) in known]
    assert ordered == sorted(known)
    others = [name for name in before if int(name) not in known]
    assert [name for name in after if int(name) not in known] == others


def test_joining_uses_up_no_number(history: sqlite3.Connection) -> None:
    push(history, 0, 1, 2)
    push(history, 0, 1, 2, 3, guid="joins two")
    assert push(history, 3, 4).builds == (4,)


def test_policy_latest_cancels_what_waits_and_says_by_which(
    history: sqlite3.Connection,
) -> None:
    old = push(history, 0, 1, policy="latest").builds[0]
    new = push(history, 1, 2, policy="latest").builds[0]
    build = builds.get(history, old)
    assert build is not None
    assert (build.state, build.summary) == (
        BuildState.CANCELLED,
        f"cancelled by a newer head: superseded by #{new}",
    )


def test_a_skipped_commit_keeps_its_reason_and_is_built_when_pushed_again(
    history: sqlite3.Connection,
) -> None:
    push(history, 0, 1, 2, reasons={sha(1): "too many"})
    skipped = builds.find(history, REPO, sha(1))
    assert skipped is not None
    assert (skipped.state, skipped.summary) == (BuildState.SKIPPED, "too many")
    push(history, 2, 1, forced=True)
    again = builds.get(history, skipped.number)
    assert again is not None
    assert again.state is BuildState.QUEUED


def test_a_skipped_commit_stands_where_it_was_pushed(
    history: sqlite3.Connection,
) -> None:
    push(history, 0, 1, 2, 3, reasons={sha(2): "asks to skip", sha(3): "asks too"})
    assert _order(history) == ["0001", "0002", "0003"]


def test_a_repeat_names_the_builds_that_it_had_joined(
    history: sqlite3.Connection,
) -> None:
    first = push(history, 0, 1, guid="one")
    joined = push(history, 0, 1, guid="two")
    assert push(history, 0, 1, guid="two").builds == joined.builds == first.builds


def test_heads_of_branches_go_first_then_older_commits_newest_first(
    history: sqlite3.Connection,
) -> None:
    push(history, 0, 1, 2, 3)
    push(history, 3, 4, 5)
    claimed = []
    while one := queue.claim(history, instance=1, at=9, context=CONTEXT):
        claimed.append(one.sha[:4])
    assert claimed == ["0005", "0004", "0003", "0002", "0001"]
