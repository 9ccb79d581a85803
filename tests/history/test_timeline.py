"""Lanes and the critical path, over every shape that an attempt can have."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from hypothesis import given, settings, strategies as st

from ci.history import attempts, progress, timeline
from ci.history.progress import Row
from ci.history.timeline import Stay, critical_path, lanes, waits
from tests.fakes.history import enqueue, memory

NOW = 1000


@st.composite
def stories(draw: st.DrawFn) -> list[Stay]:
    """Derivations that need only earlier ones; times and machines are anybody's."""
    found: list[Stay] = []
    for number in range(draw(st.integers(0, 12))):
        begun = draw(st.integers(0, NOW))
        ended = draw(st.none() | st.integers(begun, NOW))
        earlier = [stay.path for stay in found]
        needs = draw(st.sets(st.sampled_from(earlier))) if earlier else set()
        machine = draw(st.sampled_from(["", "ssh-ng://other"]))
        path = f"/nix/store/x-{number}.drv"
        found.append(Stay(path, machine, begun, ended, tuple(sorted(needs))))
    return draw(st.permutations(found))


@settings(deadline=None)
@given(stories())
def test_no_two_of_a_lane_overlap_and_no_lane_is_too_many(found: list[Stay]) -> None:
    packed = lanes(found, NOW)
    placed = [stay for rows in packed.values() for row in rows for stay in row]
    assert sorted(placed, key=lambda s: s.path) == sorted(found, key=lambda s: s.path)
    for machine, rows in packed.items():
        here = [stay for stay in found if stay.machine == machine]
        assert all(stay.machine == machine for row in rows for stay in row)
        for row in rows:
            for one, following in pairwise(row):
                assert one.end(NOW) <= following.started_at
        at_once = max(
            sum(
                s.started_at <= moment.started_at < s.end(NOW) or s is moment
                for s in here
            )
            for moment in here
        )
        assert len(rows) <= at_once


def longest(found: list[Stay]) -> float:
    """The length of the longest chain, by trying them all."""
    stays = {stay.path: stay for stay in found}

    @cache
    def upto(path: str) -> float:
        stay = stays[path]
        return stay.seconds(NOW) + max(map(upto, stay.needs), default=0.0)

    return max(map(upto, stays))


@settings(deadline=None)
@given(stories())
def test_the_critical_path_is_a_chain_and_none_is_longer(found: list[Stay]) -> None:
    chain = critical_path(found, NOW)
    if not any(stay.needs for stay in found):
        assert chain == []
        return
    stays = {stay.path: stay for stay in found}
    for one, following in pairwise(chain):
        assert one in stays[following].needs
    length = sum(stays[path].seconds(NOW) for path in chain)
    assert abs(length - longest(found)) < 1e-9


def test_a_circle_in_the_rows_harms_nothing() -> None:
    circle = [Stay("a", "", 0, 5, ("b",)), Stay("b", "", 0, 5, ("a",))]
    outside = Stay("c", "", 0, 9)
    assert critical_path([*circle, outside], NOW) == ["c"]
    assert critical_path(circle, NOW) == []


def test_why_something_waited() -> None:
    found = [
        Stay("a", "", 100, 400),
        Stay("b", "", 450, 500, ("a", "gone")),
        Stay("c", "", 400, 500, ("a",)),
    ]
    told = {
        path: (wait.seconds, wait.after) for path, wait in waits(found, 20, NOW).items()
    }
    assert told == {"a": (0.08, ""), "b": (0.05, "a"), "c": (0.0, "a")}


def test_rows_come_back_as_they_were_written_and_the_later_word_counts() -> None:
    connection = memory()
    (build,) = enqueue(connection, 1)
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at) VALUES (?, 1, 1, 7)",
        (build,),
    )
    steps = [("fetching", 10), ("evaluating", 30), ("building", 70)]
    progress.record_attempt(
        connection, build, 1, steps=steps, built=2, substituted=3, store_used=4
    )
    first = [
        Row("/nix/store/h-a-1.drv", "", 80, None),
        Row("/x/h-b.drv", "m", 90, None),
    ]
    progress.record_derivations(connection, build, 1, first)
    last = Row("/x/h-b.drv", "m", 90, 95, needs=["/nix/store/h-a-1.drv"], failed=True)
    progress.record_derivations(connection, build, 1, [last])
    (attempt,) = attempts.last(connection, build)
    assert attempt.steps == tuple(steps)
    assert (attempt.built, attempt.substituted, attempt.store_used) == (2, 3, 4)
    assert attempt.step_seconds(170) == [
        ("fetching", 0.02),
        ("evaluating", 0.04),
        ("building", 0.1),
    ]
    one, other = timeline.stays(connection, build, 1)
    assert one == Stay("/nix/store/h-a-1.drv", "", 80, None)
    assert one.name == "a-1"
    assert other == Stay("/x/h-b.drv", "m", 90, 95, ("/nix/store/h-a-1.drv",), True)
    assert timeline.stays(connection, build, 1, limit=1) == [one]
    assert timeline.stays(connection, build, 2) == []
