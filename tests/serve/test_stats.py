"""/stats: numbers, pictures and tables of the last builds."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from ci.adapters.host import now_ms
from ci.history.days import DAY_MS
from ci.models import BuildState, Target, rfc3339
from tests.fakes.turns import DAY, no_turn
from tests.serve import reading
from tests.serve.conftest import REPO, Private, Served, error_of
from tests.serve.reading import HOSTILE

GIB = 1024**3
S = BuildState.SUCCEEDED


async def get(client: Private, address: str, accept: str = "*/*") -> str:
    async with client.get(address, headers={"Accept": accept}) as response:
        assert response.status == 200, await response.text()
        return await response.text()


async def read(client: Private, address: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await get(client, address))
    return found


def measure(
    connection: sqlite3.Connection, build: int, seconds: float, store: Path
) -> None:
    connection.execute(
        "UPDATE builds SET seconds = ? WHERE number = ?", (seconds, build)
    )
    connection.execute(
        "UPDATE attempts SET built = 1, substituted = 3, store_used = ? WHERE build = ?",
        (build * GIB, build),
    )
    connection.execute(
        "INSERT INTO targets (build, name, position, state, derivation) "
        "VALUES (?, 'a', 0, 'succeeded', ?)",
        (build, f"{store}/hash-a.drv"),
    )


async def fill(served: Served, store: Path, branch: str = "dev") -> list[int]:
    states = [S, BuildState.FAILED, S, BuildState.ERROR, S, S]
    builds = []
    for number, state in enumerate(states, 1):
        place = number if branch == "dev" else 100 + number
        build = await served.add(place, state, branch=branch)
        await served.database.write(measure, build, 10.0 * number, store)
        builds.append(build)
    return builds


async def test_the_numbers_are_those_of_the_window(
    served: Served, client: Private, tmp_path: Path
) -> None:
    builds = await fill(served, tmp_path)
    await served.add(50)
    stats = await read(client, "/stats")
    assert stats["builds"] == 7
    assert (stats["succeeded"], stats["failed"]) == (4, 1)
    assert stats["success_rate"] == 0.8
    assert (stats["seconds_p50"], stats["seconds_p90"]) == (30.0, 60.0)
    assert (stats["attempts"], stats["error_attempts"]) == (6, 1)
    assert (stats["built"], stats["substituted"], stats["cache_ratio"]) == (6, 18, 0.75)
    assert (stats["repairs"], stats["repair_seconds"]) == (1, 0.0)
    assert stats["store_used"] == builds[-1] * GIB
    assert stats["store_free"] > 0
    assert stats["wait_p95"] == 999.999
    # Six attempts of 1000 s each at once, and two slots: as busy as can be.
    assert stats["busy_share"] == 1.0
    points = stats["points"]
    assert [point["number"] for point in points[:6]] == builds
    assert [point["p50"] for point in points] == [10, 10, 10, 10, 30, 30, 30]
    assert points[-1]["state"] == "queued"
    assert points[-1]["wait_seconds"] is None


async def test_a_repository_a_branch_and_a_limit_narrow_it(
    served: Served, client: Private, tmp_path: Path
) -> None:
    await fill(served, tmp_path)
    main = await fill(served, tmp_path, "main")
    stats = await read(client, f"/stats?repo={REPO.upper()}&branch=main")
    assert [point["number"] for point in stats["points"]] == main
    assert (stats["repo"], stats["branch"]) == (REPO, "main")
    assert (await read(client, "/stats?limit=3"))["builds"] == 3
    # The form sends empty fields.
    assert (await read(client, "/stats?repo=&branch=&limit=200"))["builds"] == 12
    assert (await read(client, "/stats?branch=nowhere"))["builds"] == 0
    await error_of(client, "GET", "/stats?repo=nobody/knows", 404)
    for bad in ("limit=0", "limit=301", "limit=x", "since=1"):
        await error_of(client, "GET", f"/stats?{bad}", 400)


async def test_every_picture_has_its_table_and_marks_what_failed(
    served: Served, client: Private, tmp_path: Path
) -> None:
    await fill(served, tmp_path)
    page = await get(client, "/stats?branch=dev", "text/html")
    assert page.count('class="plot line"') == 4
    assert page.count("<details id=") == 4
    assert page.count("<tr><td><a href=") == 4 * 6
    assert 'aria-label="#2 failed 20s"' in page
    assert 'aria-label="#4 error 40s"' in page
    assert "style=" not in page
    assert "stats.json?branch=dev" in page
    assert "75%" in page
    assert "6.0 GiB" in page


async def test_the_text_says_the_same_in_80_columns(
    served: Served, client: Private, tmp_path: Path
) -> None:
    await fill(served, tmp_path)
    text = await get(client, "/stats.txt")
    assert text.startswith("the last 6 builds of all repositories\n")
    assert max(map(len, text.splitlines())) <= 80
    told = {line[2:17].strip(): line[17:].split()[0] for line in text.splitlines()[1:]}
    assert told["Success rate"] == "80%"
    assert told["From caches"] == "75%"
    assert told["Our errors"] == "1"
    assert told["Duration p90"] == "1m"
    assert told["Store used"] == "6.0"


async def test_without_builds_it_says_so(served: Served, client: Private) -> None:
    stats = await read(client, "/stats")
    assert stats["builds"] == 0
    assert stats["success_rate"] is None
    assert stats["points"] == []
    assert "No build yet" in await get(client, "/stats", "text/html")
    assert await get(client, "/stats.txt") == "the last 0 builds of all repositories\n"
    # Builds of which nothing is known are no reason to draw nothing.
    await served.add(1)
    page = await get(client, "/stats", "text/html")
    assert page.count("Not known of any of these builds.") == 5


def end(connection: sqlite3.Connection, build: int, at: int) -> None:
    connection.execute(
        "UPDATE builds SET finished_at = ? WHERE number = ?", (at, build)
    )


async def test_days_are_counted_whole_however_few_are_drawn(
    served: Served, client: Private, tmp_path: Path
) -> None:
    await no_turn(DAY)
    now = now_ms()
    for age, build in enumerate(reversed(await fill(served, tmp_path))):
        await served.database.write(end, build, now - age * DAY_MS)
    every = await read(client, "/stats?days=6&limit=2")
    last = await read(client, "/stats")
    assert (every["days"], every["builds"], every["newest"]) == (6, 6, 2)
    assert len(every["points"]) == 2
    # Of as many builds both ways tell the same, but for the steps of durations.
    for key in ("succeeded", "failed", "success_rate", "cache_ratio", "built"):
        assert every[key] == last[key], key
    for key in ("seconds_p50", "seconds_p90", "wait_p50", "wait_p95"):
        assert abs(every[key] - last[key]) <= 0.05 * last[key], key
    few = await read(client, "/stats?days=2")
    assert (few["builds"], few["succeeded"], few["newest"]) == (2, 2, 2)
    assert few["since"] == rfc3339((now // DAY_MS - 1) * DAY_MS)
    # The days of a form that was not filled in.
    assert (await read(client, "/stats?days="))["days"] is None
    assert (await read(client, "/stats?days=6&branch=main"))["builds"] == 0
    assert (await read(client, f"/stats?days=6&repo={REPO}"))["builds"] == 6
    for bad in ("0", "101", "x", "-1"):
        await error_of(client, "GET", f"/stats?days={bad}", 400)


async def test_a_page_of_days_says_what_it_looked_at(
    served: Served, client: Private, tmp_path: Path
) -> None:
    await no_turn(DAY)
    now = now_ms()
    for build in await fill(served, tmp_path):
        await served.database.write(end, build, now)
    page = await get(client, "/stats?days=30&limit=3", "text/html")
    assert "The 6 builds that ended in the last 30 days" in page
    assert "Those are of the newest 3." in page
    assert "Of the newest 3 builds" in page
    assert '<option value="30" selected>30 days</option>' in page
    text = await get(client, "/stats.txt?days=30&limit=3")
    assert text.startswith("the 6 builds that ended in the last 30 days of all")
    assert "\nOf the newest 3 builds\n" in text
    assert "of the 4 good ones, within 5 %" in text
    assert max(map(len, text.splitlines())) <= 80


async def test_flaky_targets_and_commits_are_named(
    served: Served, client: Private
) -> None:
    bad, good = [
        await served.add(n, state, targets=(Target(HOSTILE, state, derivation="/d"),))
        for n, state in ((1, BuildState.FAILED), (2, S))
    ]
    again = await served.add(3, BuildState.FAILED)
    await served.retry(again)
    await served.begin(again)
    await served.finish(again, S)
    stats = await read(client, "/stats")
    assert stats["flakes"] == [
        {"target": None, "failed": again, "succeeded": again},
        {"target": HOSTILE, "failed": bad, "succeeded": good},
    ]
    words = (await reading.page(client, "/stats")).words
    assert f"#{bad} ✗ failed, #{good} ✓ succeeded" in words
    assert f"the whole build: #{again} ✗ failed, tried again ✓ succeeded" in words
    text = await get(client, "/stats.txt")
    assert f"✗ #{bad} ✓ #{good} " in text
    assert f"✗ #{again} ✓ #{again} the same commit" in text
    assert all(line.isprintable() for line in text.splitlines())


async def test_steps_are_drawn_where_they_are_known(
    served: Served, client: Private
) -> None:
    build = await served.add(1, S)
    steps = [
        ["fetching", 2_000_000],
        ["evaluating", 2_100_000],
        ["building", 2_900_000],
    ]
    again = [["fetching", 2_950_000]]
    await served.database.write(keep_steps, build, steps + again)
    (point,) = (await read(client, "/stats"))["points"]
    assert point["steps"] == {"fetching": 150.0, "evaluating": 800.0, "building": 50.0}
    page = await get(client, "/stats", "text/html")
    assert "Steps, oldest build first" in page
    assert "<td>2m 30s</td><td>13m 20s</td><td>50s</td>" in page


def keep_steps(
    connection: sqlite3.Connection, build: int, steps: list[list[object]]
) -> None:
    connection.execute(
        "UPDATE attempts SET steps = ? WHERE build = ?", (json.dumps(steps), build)
    )
