"""Who may ask: hosts, Funnel, other sites, tokens; and what a failure looks like."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from ci.config import Secrets, parse
from ci.errors import HistoryError
from ci.history.database import Database
from ci.models import Check
from ci.serve import guard, outermost
from tests.serve.conftest import Private, Served, document, error_of
from tests.serve.desk import desk

EVERY_GET = [
    "/",
    "/builds",
    "/builds/1",
    "/builds/1/log",
    "/build/status",
    "/build/logs",
    "/health",
    "/commits/0000001",
    "/client.json",
    "/client.toml",
    "/metrics",
    "/openapi.json",
    "/nothing",
]
TOKEN = "correct-horse-battery"


async def raw(client: Private, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and the body."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.read() if b"close" in head.lower() else b""
    writer.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("build-server:8000", True),
        ("BUILD-SERVER", True),
        ("localhost:1", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("ci.example.ts.net", True),
        ("evil.example", False),
        ("build-server.evil.example", False),
        ("evil.example:8000@localhost", False),
        ("localhost:8000:1", False),
        ("127.0.0.1.evil.example", False),
        ("CI.EXAMPLE.TS.NET:443", True),
        ("[::1]", True),
        ("[::2]", False),
        ("::1", False),
        ("[0:0:0:0:0:0:0:1]", False),
        ("[::ffff:127.0.0.1]", False),
        ("127.1", False),
        ("localhost.", False),
        ("build-server.:8000", False),
        ("localhost:", False),
        ("localhost,evil.example", False),
        ("user@localhost", False),
        ("user:password@localhost:8000", False),
        ("localhost/evil.example", False),
        ("localhost\u00e9", False),
        ("", False),
    ],
)
async def test_only_our_own_names_are_answered(
    served: Served, tmp_path: Path, host: str, allowed: bool
) -> None:
    served.settings = parse(document(tmp_path, allowed_hosts=["ci.example.ts.net:80"]))
    async with TestClient(TestServer(served.application())) as client:
        for path in EVERY_GET if not allowed else ["/health"]:
            async with client.get(path, headers={"Host": host}) as response:
                assert response.status == (200 if allowed else 421), path


async def test_request_target_cannot_name_another_host(client: Private) -> None:
    target = b"GET http://evil.example/health HTTP/1.1\r\n"
    tail = b"Host: localhost\r\nConnection: close\r\n\r\n"
    status, body = await raw(client, target + tail)
    assert status == 421
    assert json.loads(body)["status"] == 421
    both = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
    assert (await raw(client, both + tail))[0] == 400
    assert (await raw(client, b"GET /health HTTP/1.0\r\n\r\n"))[0] == 421


async def test_a_unix_socket_needs_no_more_than_localhost(
    served: Served, tmp_path: Path
) -> None:
    path = tmp_path / "private.sock"
    runner = web.AppRunner(served.application())
    await runner.setup()
    await web.UnixSite(runner, path).start()
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    await runner.cleanup()


async def test_what_comes_through_funnel_is_refused_everywhere(
    client: Private,
) -> None:
    for path in EVERY_GET:
        async with client.get(
            path, headers={"Tailscale-Funnel-Request": "?1"}
        ) as response:
            assert response.status == 403, path


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://build-server:8000"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://build-server:8000"}, True),
        ({"Origin": "https://build-server:8000"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://build-server:8000"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://build-server:5000"}, False),
        ({"Origin": "HTTP://Build-Server:8000"}, True),
        ({"Origin": "http://build-server"}, False),
        ({"Origin": "http://build-server:80"}, False),
        ({"Origin": "http://build-server.:8000"}, False),
        ({"Origin": "http://build-server:8000/"}, False),
        ({"Origin": "http://build-server:8000.evil.example"}, False),
        ({"Origin": "http://evil.example@build-server:8000"}, False),
        ({"Origin": "http://build-server:8000@evil.example"}, False),
        ({"Origin": "http://[::1]:8000"}, False),
        ({"Origin": "file://"}, False),
        ({"Origin": "chrome-extension://build-server:8000"}, False),
        ({"Origin": "http://build-server:8000, http://evil.example"}, False),
        ({"Sec-Fetch-Site": "SAME-ORIGIN"}, False),
        ({"Sec-Fetch-Site": ""}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "none"}, False),
        ({"Origin": ""}, False),
    ],
)
async def test_another_sites_page_can_change_nothing(
    served: Served, client: Private, headers: dict[str, str], allowed: bool
) -> None:
    build = await served.add(1)
    paths = ["/build/trigger", f"/builds/{build}/cancel", "/nothing"]
    headers = {"Host": "build-server:8000", **headers}
    answer = {"status": "triggered", "message": "", "build": build}
    async with desk(served, lambda request: answer) as seen:
        statuses = [(await client.post(path, headers=headers)).status for path in paths]
    assert statuses == ([202, 202, 404] if allowed else [403, 403, 403])
    assert len(seen) == (2 if allowed else 0)


async def test_default_ports_do_not_make_another_origin(client: Private) -> None:
    headers = {"Host": "localhost", "Origin": "http://localhost:80"}
    async with client.post("/nothing", headers=headers) as response:
        assert response.status == 404


async def test_an_address_in_brackets_is_an_origin_too(client: Private) -> None:
    for origin, status in (("http://[::1]:8000", 404), ("http://[::1]", 403)):
        headers = {"Host": "[::1]:8000", "Origin": origin}
        async with client.post("/nothing", headers=headers) as response:
            assert response.status == status


@pytest.mark.parametrize(
    "media_type",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
    ],
)
async def test_a_form_of_another_sites_page_changes_nothing(
    served: Served, client: Private, media_type: str
) -> None:
    """What a browser sends without asking first; it always names the page's origin."""
    build = await served.add(1)
    headers = {"Content-Type": media_type, "Origin": "http://evil.example"}
    async with desk(served, lambda request: {}) as seen:
        for path in ("/build/trigger", f"/builds/{build}/retry"):
            await error_of(client, "POST", path, 403, data=b"{}", headers=headers)
    assert seen == []


async def test_other_origins_are_promised_nothing(
    served: Served, client: Private
) -> None:
    build = await served.add(1)
    asking = {
        "Origin": "http://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
        "Access-Control-Request-Private-Network": "true",
    }
    for method in ("OPTIONS", "GET"):
        for path in ("/build/trigger", f"/builds/{build}", "/nothing"):
            async with client.request(method, path, headers=asking) as response:
                assert not [n for n in response.headers if n.startswith("Access-Con")]
                # Nor may a page with a reference to the window read anything.
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                if method == "OPTIONS":
                    assert response.status in (404, 405)


async def test_nothing_is_unpacked(served: Served, client: Private) -> None:
    await served.add(1)
    for encoding in ("gzip", "deflate", "identity", "x"):
        headers = {"Content-Encoding": encoding}
        for path in ("/build/trigger", "/builds/1/cancel", "/nothing"):
            await error_of(client, "POST", path, 415, headers=headers)


@asynccontextmanager
async def with_token(served: Served) -> AsyncIterator[Private]:
    served.secrets = Secrets(api_token=TOKEN)
    async with TestClient(TestServer(served.application())) as client:
        yield client


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer é",
    ],
)
async def test_wrong_tokens_change_nothing_and_reads_need_none(
    served: Served, given: str | None
) -> None:
    build = await served.add(1)
    headers = {} if given is None else {"Authorization": given}
    async with with_token(served) as client, desk(served, lambda request: {}) as seen:
        for path in ("/build/trigger", f"/builds/{build}/cancel", "/nothing"):
            async with client.post(path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer ")
                assert TOKEN not in await response.text()
        async with client.get(f"/builds/{build}") as response:
            assert response.status == 200
    assert seen == []


async def test_right_token_is_let_in(served: Served) -> None:
    build = await served.add(1)
    async with (
        with_token(served) as client,
        desk(served, lambda request: {"build": build}) as seen,
    ):
        for scheme in ("Bearer", "bearer"):
            async with client.post(
                f"/builds/{build}/cancel",
                headers={"Authorization": f"{scheme} {TOKEN}"},
            ) as response:
                assert response.status == 202
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("listen", "login", "asker"),
    [
        ("127.0.0.1:8000", "ada@example.com", "ada@example.com"),
        ("[::1]:8000", "ada@example.com", "ada@example.com"),
        ("unix:/run/private.sock", "ada@example.com", "ada@example.com"),
        ("0.0.0.0:8000", "ada@example.com", "127.0.0.1"),
        ("100.64.0.7:8000", "ada@example.com", "127.0.0.1"),
        ("127.0.0.1:8000", "", "127.0.0.1"),
        ("127.0.0.1:8000", "x" * 1000, "x" * 200),
        ("127.0.0.1:8000", "ada\u202e\u0085x", "ada\\u202e\\x85x"),
        ("127.0.0.1:8000", "=?utf-8?q?bj=C3=B6rn@example.com?=", "björn@example.com"),
        ("127.0.0.1:8000", "=?utf-8?q?a?= =?utf-8?q?=C3=A9?=", "aé"),
        ("127.0.0.1:8000", "=?utf-8?b?YQ0KYg==?=", "a\\r\\nb"),
        ("127.0.0.1:8000", "=?utf-8?q?=1B[2J?=", "\\x1b[2J"),
        ("127.0.0.1:8000", "=?utf-8?b?=FF?=", "=?utf-8?b?=FF?="),
        ("127.0.0.1:8000", "=?nobody-knows?q?x?=", "=?nobody-knows?q?x?="),
        ("127.0.0.1:8000", "=?utf-8?q??=", "127.0.0.1"),
        ("0.0.0.0:8000", "=?utf-8?q?bj=C3=B6rn?=", "127.0.0.1"),
    ],
)
async def test_caller_is_named_by_tailscale_only_behind_its_proxy(
    served: Served, tmp_path: Path, listen: str, login: str, asker: str
) -> None:
    served.settings = parse(document(tmp_path, listen={"private": listen}))
    build = await served.add(1)
    async with (
        TestClient(TestServer(served.application())) as client,
        desk(served, lambda request: {"build": build}) as seen,
    ):
        await client.post(
            f"/builds/{build}/cancel", headers={"Tailscale-User-Login": login}
        )
    assert [request.asked_by for request in seen] == [asker]


async def test_a_name_counts_only_when_tailscale_alone_can_have_set_it(
    tmp_path: Path,
) -> None:
    settings = parse(document(tmp_path))
    login = ("Tailscale-User-Login", "ada@example.com")

    def named(remote: str, *more: tuple[str, str]) -> str:
        headers = CIMultiDict([login, *more])
        request = make_mocked_request("POST", "/", headers=headers)
        return guard.caller(request.clone(remote=remote), settings)

    assert named("127.0.0.1") == named("::1") == named("") == "ada@example.com"
    # A socket that was passed to us may not be what the configuration says.
    assert named("100.64.0.9") == "100.64.0.9"
    assert named("127.0.0.1", ("Tailscale-Funnel-Request", "?1")) == "127.0.0.1"
    assert named("127.0.0.1", ("tailscale-user-login", "eve")) == "127.0.0.1"


async def test_peer_of_a_unix_socket_has_a_name(tmp_path: Path) -> None:
    request = make_mocked_request("POST", "/")
    assert guard.caller(request, parse(document(tmp_path))) == "a local socket"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST", "OPTIONS"])
async def test_other_methods_are_told_which_there_are(
    client: Private, method: str
) -> None:
    body = await error_of(client, method, "/builds", 405)
    assert body["detail"]["allowed"] == ["GET", "HEAD"]
    async with client.request(method, "/builds") as response:
        assert response.headers["Allow"] == "GET, HEAD"


async def test_get_changes_nothing(served: Served, client: Private) -> None:
    build = await served.add(1)
    for path in ("/build/trigger", f"/builds/{build}/cancel", f"/builds/{build}/retry"):
        body = await error_of(client, "GET", path, 405)
        assert body["detail"]["allowed"] == ["POST"]


async def test_failure_keeps_its_secrets_and_names_a_reference(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    application = served.application()

    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("the password is hunter2")

    async def unreadable(request: web.Request) -> web.Response:
        raise HistoryError("the disk is full; make room")

    application.router.add_get("/broken", broken)
    application.router.add_get("/unreadable", unreadable)
    async with TestClient(TestServer(application)) as client:
        with caplog.at_level(logging.ERROR, outermost.__name__):
            body = await error_of(client, "GET", "/broken", 500)
        assert "hunter2" not in json.dumps(body)
        assert body["detail"]["reference"] in caplog.text
        assert "hunter2" in caplog.text
        body = await error_of(client, "GET", "/unreadable", 503)
        assert "make room" in body["error"]


async def test_every_answer_forbids_to_be_taken_for_something_else(
    served: Served, client: Private
) -> None:
    await served.add(1)
    for path in EVERY_GET:
        async with client.get(path) as response:
            assert response.headers["X-Content-Type-Options"] == "nosniff", path
            policy = response.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["Server"] == "build-server"


async def test_health_survives_its_own_checks(served: Served) -> None:
    async def broken() -> list[Check]:
        raise RuntimeError("the daemon bit me")

    async with (
        TestClient(TestServer(served.application(broken))) as client,
        client.get("/health") as response,
    ):
        assert response.status == 200
        health = await response.json()
    assert (health["status"], health["cache_running"]) == ("degraded", False)
    assert health["checks"][0]["ok"] is False


async def test_health_does_not_need_the_history(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served.database = await Database.open(tmp_path / "closed.db")
    await served.database.close()
    async with TestClient(TestServer(served.application())) as client:
        async with client.get("/health") as response:
            assert response.status == 200
            assert (await response.json())["status"] == "healthy"
        await error_of(client, "GET", "/builds", 500)
    assert "GET /builds failed" in caplog.text
