"""The private address to the letter: keys, types, statuses and the one error shape."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.server import REPO, Server, World
from tests.end_to_end.test_contract_commits import all_ended, change, script

BUILD = {
    "number": int,
    "repo": str,
    "branch": str,
    "sha": str,
    "title": str,
    "author": str,
    "state": str,
    "cause": str,
    "attempt": int,
    "queued_at": str,
    "started_at": str,
    "finished_at": str,
    "seconds": float,
    "summary": str,
    "url": str,
    "pinned": bool,
    "targets": list,
}
TARGET = {"name": str, "state": str, "seconds": float, "error": str, "outputs": dict}
NULLABLE = {"started_at", "finished_at", "seconds", "error", "branch"}
STATUS = {
    "is_running",
    "last_start",
    "last_finish",
    "last_status",
    "last_commit",
    "queue",
    "current",
    "last",
    "deliveries",
}
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
KEY = "build-server-1:" + "A" * 43 + "="
API_TOKEN = "an-api-token-of-more-than-16"
NOBODY = "1" * 40


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"].startswith("application/json"), self
        return json.loads(self.body)


async def ask(server: Server, method: str, path: str, **how: Any) -> Answer:
    """One request to the private address."""
    async with server.session.request(method, server.private + path, **how) as answer:
        return Answer(answer.status, answer.headers, await answer.read())


def check_error(answer: Answer, status: int) -> dict[str, Any]:
    """An answer from 400 on has exactly three keys, and a sentence."""
    assert answer.status == status, answer
    error: dict[str, Any] = answer.json
    assert error["status"] == status
    assert set(error) == {"error", "status", "detail"}
    assert isinstance(error["detail"], dict)
    assert error["error"].strip()
    assert "\n" not in error["error"]
    assert "Traceback" not in error["error"]
    return error


def check_build(build: Mapping[str, Any]) -> None:
    """Exactly the keys of BUILD, each of its type; times in RFC 3339 UTC."""
    _check_keys(build, BUILD)
    for target in build["targets"]:
        _check_keys(target, TARGET)
    for key in ("queued_at", "started_at", "finished_at"):
        assert build[key] is None or MOMENT.fullmatch(build[key]), build
    assert build["url"] == f"http://build-server:8000/builds/{build['number']}"


def _check_keys(found: Mapping[str, Any], wanted: Mapping[str, type]) -> None:
    assert list(found) == list(wanted)
    for key, kind in wanted.items():
        value = found[key]
        nothing = key in NULLABLE and value is None
        number = kind is float and isinstance(value, (int, float))
        assert nothing or number or type(value) is kind, (key, value)


@dataclass
class Configured(World):
    """A world with further top-level keys in its configuration."""

    top: str = ""

    def write_configuration(self) -> Path:
        path = super().write_configuration()
        path.write_text(f"{self.top}\n{path.read_text()}")
        return path


@pytest.fixture
async def guarded_world(command_world: World) -> World:
    """A world with a token, a cache that is not there, and one more host name."""
    token = command_world.folder / "api-token"
    await asyncio.to_thread(token.write_text, API_TOKEN)
    world = Configured(
        **vars(command_world), top='allowed_hosts = ["ci.example.ts.net"]'
    )
    world.extra = (
        f'[api]\ntoken_file = "{token}"\n'
        f'[cache]\nurl = "http://127.0.0.1:9"\npublic_key = "{KEY}"\n'
    )
    return world


async def test_the_seeds_four_endpoints_before_and_after_a_build(
    command_world: World,
) -> None:
    world = command_world
    sha = script(world, "echo one; echo two; printf three; exit 3")
    async with world.server() as server:
        assert await server.get("/build/status") == {
            **dict.fromkeys(STATUS),
            "is_running": False,
            "queue": [],
            "current": [],
            "deliveries": {"missed": 0, "recovered": 0},
        }
        assert await server.get("/build/logs") == {"logs": [], "build": None}
        health = await server.get("/health")
        assert set(health) == {"status", "cache_running", "checks"}
        assert (health["status"], health["cache_running"]) == ("healthy", False)
        for check in health["checks"]:
            assert set(check) == {"name", "ok", "detail", "fix"}

        answer = await ask(server, "POST", "/build/trigger")
        assert answer.status == 202
        assert answer.json["status"] == "triggered"
        assert isinstance(answer.json["message"], str)
        check_build(answer.json["build"])
        assert answer.json["build"]["sha"] == sha

        page = await server.finished(1)
        build = {key: page[key] for key in BUILD}
        check_build(build)
        assert list(page)[: len(BUILD)] == list(BUILD)
        assert (build["state"], build["cause"], build["attempt"]) == (
            "failed",
            "trigger",
            1,
        )
        status = await server.get("/build/status")
        assert set(status) == STATUS
        assert status["is_running"] is False
        assert status["last_start"] == build["started_at"]
        assert status["last_finish"] == build["finished_at"]
        assert (status["last_status"], status["last_commit"]) == ("failed", sha)
        assert status["last"] == build

        logs = await server.get("/build/logs")
        assert set(logs) == {"logs", "build"}
        assert logs["build"] == 1
        assert logs["logs"][:3] == ["one", "two", "three"]
        assert (await server.get("/build/logs?lines=1"))["logs"] == logs["logs"][-1:]
        assert await server.get("/build/logs?build=1&lines=10000") == logs


async def test_is_running_queue_and_current_while_a_build_runs(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"parallel": 1}
    base = script(world, "echo up; sleep 60")
    async with world.server() as server:
        await server.push(base)
        await server.until_state(1, "running")
        (later,) = change(world, "later")
        await server.push(later, before=base)
        status = await server.get("/build/status")
        assert status["is_running"] is True
        assert [b["number"] for b in status["current"]] == [1]
        assert [b["number"] for b in status["queue"]] == [2]
        assert status["last"] is None
        for build in (*status["current"], *status["queue"]):
            check_build(build)
        # The log of the running build, not of the newest one.
        assert (await server.get("/build/logs"))["build"] == 1
        for trigger in ({"rev": base}, {"rev": base, "force": True}, {"rev": later}):
            answer = await ask(server, "POST", "/build/trigger", json=trigger)
            assert answer.status == 200
            assert answer.json["status"] == "already_running"
        other = await server.get(f"/build/status?repo={REPO}&branch=main")
        assert (other["is_running"], other["queue"]) == (False, [])


async def test_trigger_takes_each_key(command_world: World) -> None:
    world = command_world
    first = script(world)
    world.origin.branch("side")
    side = world.origin.commit({"side": "1"}, branch="side")
    head = world.origin.commit({"head": "1"})
    async with world.server() as server:
        for body, sha, branch in (
            ({}, head, "dev"),
            ({"ref": "side"}, side, "side"),
            ({"rev": first}, first, None),
        ):
            answer = await ask(server, "POST", "/build/trigger", json=body)
            assert (answer.status, answer.json["status"]) == (202, "triggered"), answer
            assert answer.json["build"]["sha"] == sha
            assert answer.json["build"]["branch"] == branch
        await all_ended(server)
        for body in ({"rev": head}, {"rev": head[:7]}, {"ref": "dev"}, {"repo": REPO}):
            answer = await ask(server, "POST", "/build/trigger", json=body)
            assert (answer.status, answer.json["status"]) == (200, "already_running")
            assert answer.json["build"]["number"] == 1
            assert answer.json["build"]["state"] == "succeeded"
        forced = {"rev": head, "force": True, "targets": ["checks.*"]}
        answer = await ask(server, "POST", "/build/trigger", json=forced)
        assert (answer.status, answer.json["build"]["number"]) == (202, 1)
        again = await server.finished(1)
        assert (again["attempt"], again["state"]) == (2, "succeeded")


TRIGGERS: list[tuple[bytes, int]] = [
    (b"not json", 400),
    (b"\xff\xfe", 400),
    (b"null", 400),
    (b"[]", 400),
    (b'"dev"', 400),
    (b"[" * 60_000, 400),
    (b'{"repo": 1}', 400),
    (b'{"branch": "dev"}', 400),
    (b'{"force": "yes"}', 400),
    (b'{"targets": "checks.*"}', 400),
    (b'{"targets": ["a b"]}', 400),
    (b'{"rev": "HEAD"}', 400),
    (b'{"rev": "--upload-pack=x"}', 400),
    (b'{"ref": "--upload-pack=x"}', 400),
    (b'{"ref": "$(id)\\n"}', 400),
    (b'{"repo": "no/body"}', 404),
    (b'{"ref": "nowhere"}', 404),
    (b'{"rev": "' + NOBODY.encode() + b'"}', 404),
    (b'{"rev": "' + NOBODY[:7].encode() + b'"}', 404),
    (b" " * 70_000, 413),
]
REQUESTS: list[tuple[str, str, int]] = [
    ("GET", "/nothing", 404),
    ("GET", "/builds/1", 404),
    ("GET", "/builds/0", 404),
    ("GET", "/builds/-1", 404),
    ("GET", "/builds/abc", 404),
    ("GET", "/builds/99999999999999999999", 404),
    ("GET", "/builds/1.json", 404),
    ("GET", "/builds/1.txt", 404),
    ("GET", "/builds/1/log", 404),
    ("GET", "/builds/1/nothing", 404),
    ("POST", "/builds/1/cancel", 404),
    ("POST", "/builds/1/retry", 404),
    ("POST", "/builds/abc/retry", 404),
    ("GET", f"/commits/{NOBODY}", 404),
    ("GET", "/commits/HEAD", 400),
    ("GET", "/build/status?repo=no/body", 404),
    ("GET", "/builds?repo=no/body", 404),
    ("GET", "/build/logs?lines=-1", 400),
    ("GET", "/build/logs?lines=abc", 400),
    ("GET", "/build/logs?lines=0", 400),
    ("GET", "/build/logs?lines=", 400),
    ("GET", "/build/logs?lines=1&lines=2", 400),
    ("GET", "/build/logs?build=77", 404),
    ("GET", "/build/logs?build=x", 400),
    ("GET", "/builds?state=nonsense", 400),
    ("GET", "/builds?limit=0", 400),
    ("GET", "/builds?limit=101", 400),
    ("GET", "/builds?before=x", 400),
    ("GET", "/builds?unknown=1", 400),
    ("POST", "/build/status", 405),
    ("GET", "/build/trigger", 405),
    ("DELETE", "/builds/1", 405),
    ("PUT", "/health", 405),
    ("OPTIONS", "/build/trigger", 405),
]


async def test_whatever_goes_wrong_has_the_one_shape(command_world: World) -> None:
    await asyncio.to_thread(script, command_world)
    async with command_world.server() as server:
        for body, status in TRIGGERS:
            answer = await ask(server, "POST", "/build/trigger", data=body)
            check_error(answer, status)
        for method, path, status in REQUESTS:
            for accept in ("*/*", "image/png", "text/plain"):
                headers = {"Accept": accept}
                answer = await ask(server, method, path, headers=headers)
                check_error(answer, status)
                assert (answer.status == 405) == ("Allow" in answer.headers)
        assert (await server.get("/builds"))["builds"] == []
        # An unknown Accept is no error.
        answer = await ask(
            server, "GET", "/build/status", headers={"Accept": "image/png"}
        )
        assert set(answer.json) == STATUS


async def test_cancel_and_retry_refuse_a_body_that_is_not_json(
    command_world: World,
) -> None:
    sha = script(command_world)
    async with command_world.server() as server:
        await server.push(sha)
        await server.finished(1)
        for body in (b"not json", b"[", b"\xff"):
            check_error(await ask(server, "POST", "/builds/1/retry", data=body), 400)
            check_error(await ask(server, "POST", "/builds/1/cancel", data=body), 400)
        assert (await server.build(1))["attempt"] == 1


async def test_only_those_who_may_are_answered(guarded_world: World) -> None:
    sha = script(guarded_world)
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    async with guarded_world.server() as server:
        own = urlsplit(server.private).netloc

        async def trigger(status: int, headers: Mapping[str, str]) -> None:
            answer = await ask(server, "POST", "/build/trigger", headers=headers)
            assert answer.status == status, (answer, headers)
            if status >= 400:
                check_error(answer, status)

        for host in ("evil.example", "evil.example:8000", "build-server.evil", ""):
            answer = await ask(server, "GET", "/health", headers={"Host": host})
            check_error(answer, 421)
            await trigger(421, {**bearer, "Host": host})
        for host in ("build-server", "build-server:8000", "localhost", "127.0.0.1:1"):
            answer = await ask(server, "GET", "/health", headers={"Host": host})
            assert answer.status == 200
        hosts = {"Host": "CI.example.ts.net"}
        assert (await ask(server, "GET", "/health", headers=hosts)).status == 200

        await trigger(401, {})
        await trigger(401, {"Authorization": f"Basic {API_TOKEN}"})
        await trigger(401, {"Authorization": f"Bearer {API_TOKEN}x"})
        await trigger(401, {"Authorization": "Bearer "})
        answer = await ask(server, "POST", "/builds/1/cancel")
        check_error(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")

        await trigger(403, {**bearer, "Origin": "http://evil.example"})
        await trigger(403, {**bearer, "Origin": "null"})
        await trigger(403, {**bearer, "Sec-Fetch-Site": "cross-site"})
        await trigger(403, {**bearer, "Sec-Fetch-Site": "same-site"})
        assert (await server.get("/builds"))["builds"] == []

        same = {"Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}
        await trigger(202, {**bearer, **same})
        assert (await server.finished(1))["sha"] == sha


async def test_what_a_new_machine_needs_and_what_machines_read(
    guarded_world: World,
) -> None:
    world = guarded_world
    async with world.server() as server:
        client = await server.get("/client.json")
        assert client == {
            "server": "http://build-server:8000",
            "cache": {"url": "http://build-server:9", "public_key": KEY},
            "repositories": [
                {"name": REPO, "url": world.origin.url, "branches": ["dev"]}
            ],
        }
        toml = await ask(server, "GET", "/client.toml")
        assert tomllib.loads(toml.body.decode()) == client
        health = await ask(server, "GET", "/health")
        assert health.status == 200
        assert health.json["status"] == "degraded"
        assert health.json["cache_running"] is False
        (sick,) = [check for check in health.json["checks"] if not check["ok"]]
        assert sick["detail"]
        assert sick["fix"]
        metrics = await ask(server, "GET", "/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain")
        assert b"# TYPE build_server_" in metrics.body
        document = await server.get("/openapi.json")
        assert document["openapi"].startswith("3.")
        paths = document["paths"]
        for method, path in (
            ("post", "/build/trigger"),
            ("get", "/build/status"),
            ("get", "/build/logs"),
            ("get", "/health"),
            ("get", "/builds"),
            ("get", "/builds/{number}"),
            ("get", "/builds/{number}/log"),
            ("post", "/builds/{number}/cancel"),
            ("post", "/builds/{number}/retry"),
            ("get", "/commits/{sha}"),
            ("get", "/client.json"),
            ("get", "/client.toml"),
            ("get", "/metrics"),
        ):
            assert method in paths[path]
        schema = document["components"]["schemas"]["Build"]
        assert set(schema["properties"]) == set(BUILD)


async def test_pages_have_twins_and_the_log_is_read_by_bytes(
    command_world: World,
) -> None:
    world = command_world
    sha = script(world, "echo one; echo two")
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        for path in ("/builds/1", "/builds", f"/commits/{sha}"):
            plain = {"Accept": "text/plain"}
            text = await ask(server, "GET", path, headers=plain)
            twin = await ask(server, "GET", f"{path}.txt")
            assert text.headers["Content-Type"].startswith("text/plain")
            assert twin.headers["Content-Type"].startswith("text/plain")
            assert sha[:7].encode() in text.body
            assert sha[:7].encode() in twin.body
            wanted = await server.get(path)
            # A suffix is stronger than Accept.
            twin = await ask(server, "GET", f"{path}.json", headers=plain)
            assert twin.json == wanted
        assert await server.get("/builds/1") == build
        listed = {key: build[key] for key in BUILD}
        for path, builds in (
            ("/builds", [listed]),
            ("/builds?before=1", []),
            (f"/commits/{sha[:7]}", [listed]),
        ):
            assert (await server.get(path))["builds"] == builds
        assert (await server.get("/builds"))["next"] is None
        whole = await server.text("/builds/1/log")
        assert whole.startswith(b"one\ntwo\n")
        assert await server.text("/builds/1/log?tail=5") == whole[-5:]
        assert await server.text("/builds/1/log?offset=4") == whole[4:]
        assert await server.text("/builds/1/log?follow=1") == whole
        assert await server.text("/builds/1/log?target=./ci") == whole
        answer = await ask(server, "GET", "/builds/1/log")
        assert answer.headers["Content-Type"].startswith("text/plain")
        check_error(await ask(server, "GET", "/builds/1/log?target=no"), 404)
        check_error(await ask(server, "GET", "/builds/1/log?offset=99999"), 416)
        check_error(await ask(server, "GET", "/builds/1/log?tail=-1"), 400)


async def test_a_page_of_builds_is_followed_by_the_next(command_world: World) -> None:
    world = command_world
    world.build = {"parallel": 0}
    base = script(world)
    shas = change(world, *"abcde")
    async with world.server() as server:
        await server.push(shas, before=base)
        seen: list[int] = []
        path = "/builds?limit=2"
        while True:
            page = await server.get(path)
            assert set(page) == {"builds", "next", "searched_down_to"}
            seen += [build["number"] for build in page["builds"]]
            if page["next"] is None:
                break
            path = f"/builds?limit=2&before={page['next']}"
        assert seen == [5, 4, 3, 2, 1]
        for query in ("state=queued", f"repo={REPO}", "branch=dev"):
            assert len((await server.get(f"/builds?{query}"))["builds"]) == 5
        for query in ("state=running", "branch=main"):
            assert (await server.get(f"/builds?{query}"))["builds"] == []


async def test_a_follower_reads_the_same_bytes_to_the_end(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    flag = world.folder / "go"
    sha = script(world, f"echo one; until test -e {flag}; do sleep 0.05; done; echo 2")
    async with world.server() as server:
        await server.push(sha)
        await server.until_state(1, "running")
        async with server.session.get(
            server.private + "/build/logs?follow=1"
        ) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain")
            read = await response.content.readuntil(b"one\n")
            flag.touch()
            read += await response.content.read()
        await server.finished(1)
        assert read == await server.text("/builds/1/log")
        assert read.startswith(b"one\n2\n")
