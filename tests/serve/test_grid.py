"""`/repos/O/N`: how each target and each day went, the same in all three forms."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from ci.adapters.host import now_ms
from ci.history.days import DAY_MS, day_of
from ci.models import BuildState, Target
from ci.serve.pages import calendar
from ci.serve.pages.grid import MOST
from ci.serve.text import SYMBOLS
from tests.fakes.turns import DAY, no_turn
from tests.serve.conftest import REPO, Private, Served
from tests.serve.html_tree import Element, parse
from tests.serve.reading import BROWSER, HOSTILE, page

S = BuildState
HERE = f"/repos/{REPO}"
GOOD, BAD = S.SUCCEEDED, S.FAILED
# A Wednesday.
NOW = int(datetime(2026, 11, 18, 12, tzinfo=UTC).timestamp() * 1000)


async def told(client: Private) -> Any:
    async with client.get(f"{HERE}.json") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def text(client: Private) -> list[str]:
    async with client.get(f"{HERE}.txt") as response:
        lines = (await response.text()).splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return lines


async def table(client: Private, kind: str) -> list[Element]:
    """The rows of a table of the page, without its head."""
    async with client.get(HERE, headers=BROWSER) as response:
        read = parse(await response.text())
    return list(read.one("table", class_=kind).one("tbody").all("tr"))


async def add(
    served: Served, number: int, state: BuildState, *targets: tuple[str, BuildState]
) -> int:
    found = tuple(Target(name, how) for name, how in targets)
    return await served.add(number, state, targets=found)


async def test_targets_by_builds_say_the_same_in_all_forms(
    served: Served, client: Private
) -> None:
    one = await add(served, 1, GOOD, ("a", GOOD), ("b", GOOD))
    two = await add(served, 2, BAD, ("a", GOOD), ("b", BAD))
    three = await add(served, 3, S.ERROR, ("b", S.ERROR))
    await served.add(4, S.SKIPPED)
    await served.add(5)
    four = await add(served, 6, BAD, ("a", GOOD), ("b", BAD), ("c", GOOD))
    grid = (await told(client))["grid"]
    assert grid["builds"] == [four, three, two, one]
    assert grid["left_out"] == 0
    b, a, c = grid["targets"]
    assert (b["name"], b["failing_since"], b["turns"]) == ("b", two, 1)
    assert b["states"] == ["failed", "error", "failed", "succeeded"]
    assert (a["failing_since"], a["turns"]) == (None, 0)
    assert a["states"] == ["succeeded", None, "succeeded", "succeeded"]
    assert c["states"] == ["succeeded", None, None, None]
    rows = await table(client, "grid")
    lines = await text(client)
    for row, target in zip(rows, grid["targets"], strict=True):
        assert row.one("code").text == target["name"]
        states = [
            cell.one("span", class_="unseen").text.removesuffix(", log")
            for cell in row.all("td")
        ]
        assert states == [state or "not in it" for state in target["states"]]
        links = [link.attributes["href"] for link in row.all("a")]
        assert links == [
            f"/builds/{number}/log?target={target['name']}"
            for number, state in zip(grid["builds"], target["states"], strict=True)
            if state
        ]
        marks = "".join(SYMBOLS[state] if state else "·" for state in target["states"])
        (line,) = [line for line in lines if line.startswith(f"  {target['name']} ")]
        assert marks in line
        assert (f"failing since #{two}" in line) == (target["name"] == "b")
    assert f"failing since #{two}" in rows[0].text


async def test_the_order_is_that_of_the_branch(served: Served, client: Private) -> None:
    """An older commit that was told of later is older."""
    newer = await add(served, 1, GOOD, ("a", GOOD))
    older = await add(served, 2, BAD, ("a", BAD))
    await served.database.write(_swap, older, newer)
    grid = (await told(client))["grid"]
    assert grid["builds"] == [newer, older]
    assert grid["targets"][0]["failing_since"] is None


def _swap(connection: sqlite3.Connection, older: int, newer: int) -> None:
    for build, position in ((older, 1), (newer, 2)):
        connection.execute(
            "UPDATE branch_commits SET position = ? WHERE build = ?", (position, build)
        )


async def test_what_has_gone_does_not_fail(served: Served, client: Private) -> None:
    bad = await add(served, 1, BAD, ("gone", BAD), ("a", GOOD))
    # Nothing else was evaluated: whether it is still there is not known.
    await add(served, 2, BAD, ("broken", BAD))
    grid = (await told(client))["grid"]
    assert {one["name"]: one["failing_since"] for one in grid["targets"]} == {
        "broken": bad + 1,
        "gone": bad,
        "a": None,
    }
    await add(served, 3, GOOD, ("a", GOOD))
    grid = (await told(client))["grid"]
    assert not any(one["failing_since"] for one in grid["targets"])


async def test_flaky_is_one_derivation_with_both_ends(
    served: Served, client: Private
) -> None:
    for number, (state, derivation) in enumerate(
        ((GOOD, "/1.drv"), (BAD, "/2.drv"), (GOOD, "/3.drv"), (S.ERROR, "/3.drv")), 1
    ):
        target = Target("a", state, derivation=derivation)
        await served.add(number, state, targets=(target,))
    (target_,) = (await told(client))["grid"]["targets"]
    assert (target_["flaky"], target_["turns"]) == (False, 2)
    assert "turned 2 times" in " ".join(await text(client))
    await served.add(9, BAD, targets=(Target("a", BAD, derivation="/3.drv"),))
    (target_,) = (await told(client))["grid"]["targets"]
    assert target_["flaky"]
    assert "flaky" in (await table(client, "grid"))[0].text


async def test_no_more_than_so_many_targets_and_it_says_so(
    served: Served, client: Private
) -> None:
    many = [(f"t{n:03}", GOOD) for n in range(MOST + 7)]
    await add(served, 1, BAD, *many, ("zz", BAD))
    grid = (await told(client))["grid"]
    assert grid["targets"][0]["name"] == "zz"
    assert (len(grid["targets"]), grid["left_out"]) == (MOST, 8)
    assert len(await table(client, "grid")) == MOST
    assert "8 other targets are left out" in (await page(client, HERE)).words
    assert "8 other targets are left out" in "\n".join(await text(client))


async def test_hostile_names_are_only_names(served: Served, client: Private) -> None:
    build = await add(served, 1, BAD, (HOSTILE, BAD))
    read = await page(client, HERE)
    assert "\\x1b]8;;x\\x07" in read.words
    assert f"/builds/{build}/log?target={quote(HOSTILE, safe='')}" in read.links
    assert all(line.isprintable() for line in await text(client))


async def test_nothing_is_drawn_of_nothing(served: Served, client: Private) -> None:
    await served.add(1)
    shape = await told(client)
    assert shape["grid"] == {"builds": [], "targets": [], "left_out": 0}
    assert shape["calendar"]["days"] == []
    words = (await page(client, HERE)).words
    assert "build by build" not in words
    assert "Day by day" not in words


# The calendar


def ended(**of: int) -> dict[BuildState, int]:
    return {BuildState(name): count for name, count in of.items()}


def test_a_calendar_has_whole_weeks_from_a_monday_to_today() -> None:
    first = calendar.first_day(NOW)
    assert datetime.fromtimestamp(first * DAY_MS / 1000, UTC).weekday() == 0
    shown = calendar.calendar({first: ended(succeeded=1)}, NOW)
    assert (shown.since, shown.until) == ("2026-05-25", "2026-11-18")
    drawn = str(calendar.picture(shown, "Days"))
    # One square for each day, one of them filled; a cross is no square.
    assert drawn.count("<rect") == day_of(NOW) - first + 1
    assert drawn.count('class="none"') == day_of(NOW) - first
    assert "style=" not in drawn
    monday = datetime(2026, 5, 25, tzinfo=UTC)
    for weeks in range(60):
        at = int((monday + timedelta(days=weeks * 5)).timestamp() * 1000)
        weekday = datetime.fromtimestamp(
            calendar.first_day(at) * DAY_MS / 1000, UTC
        ).weekday()
        assert weekday == 0


def test_each_kind_of_day_has_a_shape_and_a_sign_of_its_own() -> None:
    first = calendar.first_day(NOW)
    days = {
        first: ended(succeeded=12),
        first + 1: ended(succeeded=3, failed=1, error=1),
        first + 2: ended(failed=2, cancelled=1),
        first + 3: ended(error=1),
        first + 4: ended(skipped=1),
    }
    shown = calendar.calendar(days, NOW)
    kinds = [day.kind for day in shown.days]
    assert kinds == ["good", "mixed", "bad", "ours", "other"]
    lines = list(calendar.lines(shown))
    assert [line[6] for line in lines[1:]] == ["✓", "±", "✗", "!", "–", "·", "·"]
    shapes = [str(sample).replace("is-", "") for sample, _ in calendar.legend()]
    assert len(set(shapes)) == 5
    assert "2026-05-26: 3 succeeded, 1 failed, 1 error" in calendar.picture(shown, "x")


async def test_days_are_those_of_the_branch_in_all_forms(
    served: Served, client: Private
) -> None:
    await no_turn(DAY)
    now = now_ms()
    for number, state in enumerate((GOOD, BAD, GOOD, S.ERROR), 1):
        build = await served.add(number, state)
        await served.database.write(_move, build, now - (number % 2) * DAY_MS)
    other = await served.add(9, GOOD, branch="main")
    await served.database.write(_move, other, now)
    shape = (await told(client))["calendar"]
    counted = [[day["succeeded"], day["failed"], day["error"]] for day in shape["days"]]
    assert counted == [[2, 0, 0], [0, 1, 1]]
    rows = await table(client, "days")
    assert [row.one("th").text for row in rows] == [
        day["day"] for day in reversed(shape["days"])
    ]
    cells = [[cell.text for cell in row.all("td")] for row in rows]
    assert cells == [["–", "1", "1", "–", "–"], ["2", "–", "–", "–", "–"]]
    async with client.get(HERE, headers=BROWSER) as response:
        body = await response.text()
    assert f"<title>{shape['days'][0]['day']}: 2 succeeded</title>" in body
    lines = "\n".join(await text(client))
    assert f"day by day since {shape['since']}" in lines
    assert json.dumps(shape).count('"day"') == 2


def _move(connection: sqlite3.Connection, build: int, at: int) -> None:
    connection.execute(
        "UPDATE builds SET finished_at = ? WHERE number = ?", (at, build)
    )
