"""`/build/status`, `/health`, `/`, and what machines ask: client files, metrics."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from ci.config import parse
from ci.models import BuildState, Check
from ci.serve.about import seen_from_outside
from tests.serve.conftest import (
    KEY,
    REPO,
    VERSION,
    Private,
    Served,
    document,
    error_of,
    sha,
)


async def get(client: Private, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_status_before_anything_was_built(client: Private) -> None:
    assert await get(client, "/build/status") == {
        "is_running": False,
        "last_start": None,
        "last_finish": None,
        "last_status": None,
        "last_commit": None,
        "queue": [],
        "current": [],
        "last": None,
        "deliveries": {"missed": 0, "recovered": 0},
    }


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (BuildState.SUCCEEDED, "success"),
        (BuildState.FAILED, "failed"),
        (BuildState.ERROR, "error"),
        (BuildState.CANCELLED, "cancelled"),
    ],
)
async def test_status_describes_the_newest_finished_commit(
    served: Served, client: Private, state: BuildState, word: str
) -> None:
    await served.add(1, BuildState.SUCCEEDED)
    last = await served.add(2, state)
    await served.add(3, BuildState.SKIPPED)
    running = await served.add(4, BuildState.RUNNING)
    queued = await served.add(5)
    status = await get(client, "/build/status")
    assert status["is_running"] is True
    assert status["last_status"] == word
    assert status["last_commit"] == sha(2)
    assert status["last_start"] == "1970-01-01T00:33:20.000Z"
    assert status["last_finish"] == "1970-01-01T00:50:00.000Z"
    page = await get(client, f"/builds/{last}")
    assert status["last"] == {key: page[key] for key in status["last"]}
    assert [build["number"] for build in status["current"]] == [running]
    assert [build["number"] for build in status["queue"]] == [queued]


async def test_status_of_one_branch_leaves_out_the_others(
    served: Served, client: Private
) -> None:
    dev = await served.add(1, BuildState.SUCCEEDED)
    main = await served.add(2, BuildState.FAILED, branch="main")
    waiting = await served.add(3, branch="main")

    async def seen(query: str) -> tuple[int | None, list[int]]:
        status = await get(client, f"/build/status?{query}")
        last = status["last"] and status["last"]["number"]
        return last, [build["number"] for build in status["queue"]]

    assert await seen("") == (dev, [waiting])
    assert await seen("branch=dev") == (dev, [])
    assert await seen("branch=main") == (main, [waiting])
    assert await seen(f"repo={REPO.upper()}") == (dev, [])
    assert await seen("branch=elsewhere") == (None, [])


async def test_first_page_shows_every_branch_and_the_last_builds(
    served: Served, client: Private
) -> None:
    numbers = [await served.add(n, BuildState.SUCCEEDED) for n in range(1, 23)]
    running = await served.add(30, BuildState.RUNNING)
    overview = await get(client, "/index.json")
    assert overview["version"] == VERSION
    assert [build["number"] for build in overview["current"]] == [running]
    assert [(b["repo"], b["branch"]) for b in overview["branches"]] == [
        (REPO, "dev"),
        (REPO, "main"),
    ]
    assert overview["branches"][0]["last"]["number"] == numbers[-1]
    assert overview["branches"][1]["last"] is None
    assert [b["number"] for b in overview["builds"]] == [running, *numbers[:2:-1]]
    async with client.get("/") as response:
        text = await response.text()
    assert text.startswith(f"build-server {VERSION}: 1 running, 0 queued\n")
    assert "nothing built yet" in text


async def test_health_tells_of_the_cache_and_of_what_is_wrong(
    served: Served, client: Private
) -> None:
    good = await get(client, "/health")
    assert (good["status"], good["cache_running"]) == ("healthy", True)
    assert good["checks"][0] == {
        "name": "database",
        "ok": True,
        "detail": "writable",
        "fix": "",
    }
    served.found[1] = Check("cache", False, "refused", "start harmonia")
    bad = await get(client, "/health")
    assert (bad["status"], bad["cache_running"]) == ("degraded", False)
    async with client.get("/health", headers={"Accept": "text/plain"}) as response:
        assert "✗ cache        refused\n  fix: start harmonia\n" in (
            await response.text()
        )
    del served.found[1]
    assert (await get(client, "/health"))["cache_running"] is False


async def test_new_machine_learns_the_same_from_both_files(
    served: Served, tmp_path: Path
) -> None:
    served.settings = parse(
        document(
            tmp_path,
            cache={"url": "http://127.0.0.1:5000", "public_key": KEY},
            repository=[{"name": REPO, "branches": ['a"b', "dev"]}],
        )
    )
    async with TestClient(TestServer(served.application())) as client:
        answer = await get(client, "/client.json")
        async with client.get("/client.toml") as response:
            assert response.content_type == "text/plain"
            assert tomllib.loads(await response.text()) == answer
    assert answer == {
        "server": "http://build-server:8000",
        "cache": {"url": "http://build-server:5000", "public_key": KEY},
        "repositories": [
            {
                "name": REPO,
                "url": f"https://github.com/{REPO}.git",
                "branches": ['a"b', "dev"],
            }
        ],
    }


async def test_server_without_a_cache_names_none(client: Private) -> None:
    assert (await get(client, "/client.json"))["cache"] is None
    async with client.get("/client.toml") as response:
        assert "cache" not in tomllib.loads(await response.text())


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://127.0.0.1:5000", "http://ci.example:5000"),
        ("http://localhost", "http://ci.example"),
        ("http://[::1]:5000/x", "http://ci.example:5000/x"),
        ("https://cache.example/a", "https://cache.example/a"),
    ],
)
def test_loopback_cache_is_seen_as_our_neighbour(url: str, seen: str) -> None:
    assert seen_from_outside(url, "http://ci.example:8000") == seen


async def scrape(
    client: Private,
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


async def test_metrics_count_what_happened_and_what_the_history_holds(
    served: Served, client: Private
) -> None:
    await served.add(1, BuildState.FAILED)
    await served.add(2)
    await served.add(3, BuildState.RUNNING)
    served.metrics.delivery("accepted")
    served.metrics.build_finished("failed", 42.0)
    await error_of(client, "GET", "/builds/77", 404)
    await error_of(client, "GET", "/a/path/nobody/knows", 404)
    seen = await scrape(client)
    for state in ("failed", "queued", "running"):
        assert seen["build_server_builds", labels(repo=REPO, state=state)] == 1
    assert seen["build_server_queue_length", labels()] == 1
    assert seen["build_server_running", labels()] == 1
    assert seen["build_server_outbox_backlog", labels()] > 0
    deliveries = "build_server_deliveries_total"
    assert seen[deliveries, labels(outcome="accepted")] == 1
    assert seen[deliveries, labels(outcome="refused")] == 0
    durations = "build_server_build_duration_seconds_sum"
    assert seen[durations, labels(state="failed")] == 42
    assert seen["build_server_info", labels(version=VERSION)] == 1
    answers = "build_server_http_request_duration_seconds_count"
    for route in ("/builds/{number}", "unknown"):
        asked = labels(route=route, method="GET", status="404")
        assert seen[answers, asked] == 1, route
