"""The timeline of a build: page, picture, trace and twins say the same."""

from __future__ import annotations

import json
import sqlite3
from typing import Any
from xml.etree import ElementTree as ET

from ci.history import progress
from ci.history.progress import Row
from ci.models import BuildState
from tests.serve.conftest import Private, Served, error_of

SVG = "{http://www.w3.org/2000/svg}"
T = 2_000_000  # Where attempts of the history under test begin.
HOSTILE = '<script>alert("1")<!--\x1b[31m'
STEPS = [("fetching", T), ("evaluating", T + 500), ("building", T + 2000)]


def path(name: str) -> str:
    return f"/nix/store/{'a' * 32}-{name}.drv"


def record(
    connection: sqlite3.Connection,
    build: int,
    rows: list[Row],
    built: int | None,
    ended: int | None,
) -> None:
    progress.record_attempt(
        connection, build, 1, steps=STEPS, built=built, substituted=2, store_used=None
    )
    progress.record_derivations(connection, build, 1, rows)
    connection.execute(
        "UPDATE attempts SET finished_at = ? WHERE build = ?", (ended, build)
    )


CHAIN = [
    Row(path("a"), "", T + 2000, T + 5000),
    Row(path("b"), "", T + 5000, T + 9000, [path("a")]),
    Row(path("c"), "ssh-ng://fast", T + 2500, T + 4500, failed=True),
    Row(path(HOSTILE), "", T + 6000, None, [path("a")]),
]


async def add(
    served: Served,
    rows: list[Row],
    state: BuildState = BuildState.FAILED,
    built: int | None = 4,
    ended: int | None = T + 10_000,
) -> int:
    build = await served.add(1, state)
    await served.database.write(record, build, rows, built, ended)
    return build


async def get(client: Private, address: str, accept: str = "*/*") -> str:
    async with client.get(address, headers={"Accept": accept}) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def read(client: Private, address: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await get(client, address))
    return found


async def test_the_json_tells_steps_states_waits_and_the_critical_path(
    served: Served, client: Private
) -> None:
    build = await add(served, CHAIN)
    timeline = await read(client, f"/builds/{build}/timeline")
    assert [(step["name"], step["seconds"]) for step in timeline["steps"]] == [
        ("fetching", 0.5),
        ("evaluating", 1.5),
        ("building", 8.0),
    ]
    assert timeline["critical_path"] == [path("a"), path("b")]
    assert timeline["critical_seconds"] == 7.0
    assert (timeline["built"], timeline["substituted"]) == (4, 2)
    told = {found["name"]: found for found in timeline["derivations"]}
    assert {name: found["state"] for name, found in told.items()} == {
        "a": "succeeded",
        "b": "succeeded",
        "c": "failed",
        HOSTILE: "cancelled",
    }
    assert told[HOSTILE]["after"] == path("a")
    assert told[HOSTILE]["waited_seconds"] == 1.0
    assert told[HOSTILE]["seconds"] == 4.0
    assert told["c"]["machine"] == "ssh-ng://fast"
    assert told["c"]["waited_seconds"] == 0.5


async def test_the_picture_has_a_bar_for_each_and_more_than_colour(
    served: Served, client: Private
) -> None:
    build = await add(served, CHAIN)
    drawn = await get(client, f"/builds/{build}/timeline.svg")
    root = ET.fromstring(drawn)  # noqa: S314 - our own text
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert len(titles) == len(STEPS) + len(CHAIN)
    by_name = {title.partition(" · ")[0]: title for title in titles}
    assert "4s" in by_name["b"]
    assert "after a" in by_name["b"]
    assert by_name["b"].endswith("on the critical path")
    assert "failed, 2s · ssh-ng://fast" in by_name["c"]
    assert "cut off" in " ".join(titles)
    words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert {"◆ a", "◆ b", "✗ c"} <= {word.text for word in root.iter(f"{SVG}text")}
    assert "this host" in words
    assert "ssh-ng://fast" in words
    assert "class=" not in drawn.replace("aria-label", "")
    assert "\x1b" not in drawn


async def test_the_page_holds_the_picture_the_table_and_no_script(
    served: Served, client: Private
) -> None:
    build = await add(served, CHAIN)
    page = await get(client, f"/builds/{build}/timeline", "text/html")
    assert 'class="plot gantt wide"' in page
    assert page.count("<tr><td title=") == len(CHAIN)
    assert "<script>alert" not in page
    assert "style=" not in page
    assert "7s" in page
    assert "data-events" not in page
    assert f'href="/builds/{build}/timeline/trace.json"' in page


async def test_the_text_has_a_line_for_each_within_80_columns(
    served: Served, client: Private
) -> None:
    build = await add(served, [row for row in CHAIN if not row.machine])
    text = await get(client, f"/builds/{build}/timeline.txt")
    assert max(map(len, text.splitlines())) <= 80
    lines = [line for line in text.splitlines() if line.endswith("|")]
    assert [line[:2] for line in lines] == ["◆ ", "◆ ", "  "]
    assert "took 7s" in text
    assert "\x1b" not in text


async def test_the_trace_has_the_same_events_in_microseconds(
    served: Served, client: Private
) -> None:
    build = await add(served, CHAIN)
    trace = await read(client, f"/builds/{build}/timeline/trace.json")
    events = {e["name"]: e for e in trace["traceEvents"] if e["ph"] == "X"}
    assert (events["b"]["ts"], events["b"]["dur"]) == ((T + 5000) * 1000, 4_000_000)
    assert events["b"]["args"]["needs"] == ["a"]
    assert events["fetching"]["dur"] == 500_000
    machines = [e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"]
    assert machines == ["build-server", "this host", "ssh-ng://fast"]
    assert events["c"]["pid"] != events["b"]["pid"]
    assert events["b"]["tid"] != events[HOSTILE]["tid"]


async def test_a_running_build_is_shown_until_now_and_tells_its_news(
    served: Served, client: Private
) -> None:
    rows = [Row(path("a"), "", T + 2000, None), Row(path("b"), "", T + 2500, None)]
    build = await add(served, rows, BuildState.RUNNING, 2, None)
    page = await get(client, f"/builds/{build}/timeline", "text/html")
    assert f'data-events="/events?build={build}"' in page
    assert "is being built" in page
    # As with Nix 2.8; not to be taken for builders that hang.
    assert "None is known to have ended yet" in page
    timeline = await read(client, f"/builds/{build}/timeline")
    assert {found["state"] for found in timeline["derivations"]} == {"running"}
    assert timeline["finished_at"] is None


async def test_nothing_built_says_why(served: Served, client: Private) -> None:
    build = await add(served, [], BuildState.SUCCEEDED, 0)
    other = await served.add(2, BuildState.FAILED)
    queued = await served.add(3)
    skipped = await served.add(4, BuildState.SKIPPED)
    running = await served.add(5, BuildState.RUNNING)
    for number, sentence in (
        (build, "Nothing was built: all of it was there, or came from caches."),
        (other, "Nothing was built by Nix in this attempt."),
        (queued, "It waits: no attempt has begun yet."),
        (skipped, "It was skipped before anything began."),
        (running, "Nothing is being built yet."),
    ):
        for form in ("text/html", "text/plain"):
            assert sentence in await get(client, f"/builds/{number}/timeline", form)
        assert (await read(client, f"/builds/{number}/timeline"))["derivations"] == []
        await get(client, f"/builds/{number}/timeline.svg")
        await read(client, f"/builds/{number}/timeline/trace.json")


async def test_earlier_attempts_are_there_and_others_are_not(
    served: Served, client: Private
) -> None:
    build = await add(served, CHAIN)
    await served.retry(build)
    await served.begin(build)
    first = await read(client, f"/builds/{build}/timeline?attempt=1")
    last = await read(client, f"/builds/{build}/timeline")
    assert (first["attempt"], len(first["derivations"])) == (1, 4)
    assert (last["attempt"], last["derivations"]) == (2, [])
    page = await get(client, f"/builds/{build}/timeline?attempt=1", "text/html")
    assert '<a href="?attempt=1" aria-current="page">1</a>' in page
    # The past does not change any more.
    assert "data-events" not in page
    assert "timeline.json?attempt=1" in page
    for suffix in ("", ".svg", "/trace.json"):
        found = await error_of(
            client, "GET", f"/builds/{build}/timeline{suffix}?attempt=3", 404
        )
        assert "has no attempt 3" in found["error"]
        await error_of(client, "GET", f"/builds/99/timeline{suffix}", 404)


async def test_too_many_bars_are_left_out_of_the_picture_and_it_says_so(
    served: Served, client: Private
) -> None:
    """But none of the critical path, however short."""
    rows = [
        Row(path(f"x{i}"), "", T + 2000 + i, T + 2001 + i + (900 if i % 5 == 0 else 0))
        for i in range(2500)
    ]
    rows += [
        Row(path("a"), "", T + 2000, T + 2001),
        Row(path("b"), "", T + 2001, T + 9000, [path("a")]),
    ]
    build = await add(served, rows)
    timeline = await read(client, f"/builds/{build}/timeline")
    assert len(timeline["derivations"]) == 2502
    assert timeline["drawn"] == 502
    page = await get(client, f"/builds/{build}/timeline", "text/html")
    assert "502 of 2502 derivations are drawn" in page
    assert page.count("on the critical path</title>") == 2
