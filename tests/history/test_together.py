"""Deliveries that share a transaction leave what they would have left one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from hypothesis import event, example, given, settings, strategies as st

from ci.history import deliveries, repositories
from ci.history.deliveries import Arrival, Plan
from tests.fakes.history import CONTEXT, REPO, commit, memory, sha

OTHER = "owner/other"


def arrival(
    guid: str,
    before: int,
    numbers: list[int],
    *,
    repo: str = REPO,
    branch: str = "dev",
    policy: str = "every",
    reasons: frozenset[int] = frozenset(),
    forced: bool = False,
    ignored: bool = False,
) -> Arrival:
    """A push of the numbered commits; one that is `ignored` takes the branch away."""
    plan = Plan(
        repo=repo,
        github_id=len(repo),
        github_name=repo,
        branch=branch,
        commits=tuple(commit(number) for number in numbers),
        reasons={sha(number): "asks to" for number in numbers if number in reasons},
        head=sha(numbers[-1]),
        policy=policy,
        context=CONTEXT,
    )
    return Arrival(
        hook_id="1",
        guid=guid,
        event="push",
        received_at=int(before) + 1,
        body_sha256="",
        ref=f"refs/heads/{branch}",
        before=sha(before),
        after=sha(numbers[-1]),
        forced=forced,
        plan=None if ignored else plan,
        reason="deleted" if ignored else "",
        repo=repo,
        deleted=branch if ignored else None,
        context=CONTEXT,
    )


@contextmanager
def listing(connection: sqlite3.Connection) -> Iterator[dict[str, None]]:
    """The statements that are run meanwhile; each is heard again for its triggers."""
    found: dict[str, None] = {}
    connection.set_trace_callback(lambda statement: found.setdefault(statement))
    yield found
    connection.set_trace_callback(None)


NUMBERS = st.integers(0, 30)
SELDOM = st.integers(0, 9).map(lambda number: number == 0)
ARRIVALS = st.lists(
    st.builds(
        arrival,
        st.integers(0, 60).map(str),
        NUMBERS,
        st.lists(NUMBERS, min_size=1, max_size=3, unique=True),
        repo=st.sampled_from([REPO, REPO, OTHER]),
        branch=st.sampled_from(["dev", "dev", "main"]),
        policy=st.sampled_from(["every", "every", "every", "latest"]),
        reasons=st.frozensets(NUMBERS, max_size=1),
        forced=SELDOM,
        ignored=SELDOM,
    ),
    max_size=10,
)


@settings(deadline=None, max_examples=60)
@given(ARRIVALS, ARRIVALS)
@example([], [arrival("overtook", 2, [3]), arrival("overtaken", 0, [1, 2])])
def test_together_or_one_by_one_it_is_the_same(
    earlier: list[Arrival], batch: list[Arrival]
) -> None:
    with closing(memory()) as one_by_one, closing(memory()) as together:
        for history in (one_by_one, together):
            repositories.ensure(history, [REPO, OTHER])
            for old in earlier:
                deliveries.accept(history, [old])
        expected = [deliveries.accept(one_by_one, [one])[0] for one in batch]
        with listing(together) as statements:
            receipts = deliveries.accept(together, batch)
        event(f"in one statement: {any('), (' in sql for sql in statements)}")
        assert receipts == expected
        assert list(together.iterdump()) == list(one_by_one.iterdump())


def test_a_storm_is_recorded_in_a_few_statements() -> None:
    """However many they are; each would let go of the interpreter and wait for it."""
    storm = [arrival(str(n), n, [n + 1]) for n in range(200)]
    with closing(memory()) as history:
        deliveries.accept(history, [arrival("first", 5000, [5001])])
        with listing(history) as statements:
            receipts = deliveries.accept(history, storm)
        assert [receipt.builds for receipt in receipts] == [
            (n + 2,) for n in range(200)
        ]
        assert len(statements) < 40
