"""`POST /webhook` to the letter, over raw sockets: what is answered and what is kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import history, script
from tests.end_to_end.wire import going_on
from tests.fakes.push import (
    SECRET,
    encode,
    headers,
    make_commit,
    make_ping,
    make_push,
    sha,
    sign,
)
from tests.fakes.waiting import PATIENCE

LIMIT = 25 * 1024 * 1024
NEW_SECRET = b"fedcba9876543210fedcba9876543210"
NEEDED = ("ref", "before", "after", "repository", "commits")
RECORDED = ("SELECT * FROM deliveries", "SELECT number, sha, state FROM builds")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send(server: Server, data: bytes, *, whole: bool = True) -> Answer:
    """Write bytes to the public address and read the answer until it closes."""
    where = urlsplit(server.public)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            if whole:
                await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
            body = await reader.readexactly(int(length))
    finally:
        writer.close()
    first, *rest = head.strip().split("\r\n")
    fields = dict(line.split(": ", 1) for line in rest)
    return Answer(int(first.split()[1]), fields, body)


def request(
    body: bytes,
    fields: Mapping[str, str | bytes],
    *,
    method: str = "POST",
    path: str = "/webhook",
    length: int | None = None,
) -> bytes:
    """The bytes of a request; header values go out as they are."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    size = len(body) if length is None else length
    for name, value in {**fields, "Content-Length": str(size)}.items():
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
        head += name.encode() + b": " + raw + b"\r\n"
    return head + b"\r\n" + body


def without(fields: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key != name}


def everything(world: World) -> list[str]:
    """Every row of every table."""
    with closing(sqlite3.connect(world.state_dir / "history.db")) as connection:
        return list(connection.iterdump())


def good_push(label: str = "push") -> bytes:
    return encode(make_push([make_commit(sha(label), label)], label=label))


@pytest.fixture
async def quiet_world(command_world: World) -> World:
    """A world that records and builds nothing."""
    command_world.build = {"parallel": 0}
    return command_world


async def test_what_is_not_signed_gets_one_answer_and_leaves_nothing(
    quiet_world: World,
) -> None:
    body = good_push()
    signed = headers(body)
    sha1 = hmac.new(SECRET, body, hashlib.sha1).hexdigest()
    unsigned = without(signed, "X-Hub-Signature-256")
    no_signature: list[Mapping[str, str | bytes]] = [
        {**unsigned},
        {**unsigned, "X-Hub-Signature": f"sha1={sha1}"},
        *(
            {**unsigned, "X-Hub-Signature-256": value}
            for value in (
                "",
                sign(body, b"another-secret-of-32-characters!"),
                sign(body + b" "),
                sign(body).removeprefix("sha256="),
                sign(body).upper(),
                "sha256=",
                "sha256=" + "0" * 64,
                sign(body) + "0",
                b"sha256=" + b"\xe9" * 64,
                "sha256=é".encode() + b"0" * 62,
            )
        ),
        {
            **unsigned,
            "X-Hub-Signature-256": "sha256=" + "0" * 64,
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Encoding": "gzip",
        },
    ]
    async with quiet_world.server() as server:
        before = everything(quiet_world)
        answers = [await send(server, request(body, f)) for f in no_signature]
        too_large = without(signed, "X-Hub-Signature-256")
        answers += [
            await send(server, request(b"", too_large, length=LIMIT + 1)),
            await send(server, request(b"{", {**signed})),
        ]
        assert {answer.status for answer in answers} == {401}
        assert len({answer.body for answer in answers}) == 1
        assert set(answers[0].json) == {"error", "status", "detail"}
        assert everything(quiet_world) == before


async def test_nothing_but_post_webhook_is_there(quiet_world: World) -> None:
    body = good_push()
    async with quiet_world.server() as server:
        before = everything(quiet_world)
        for method, path in (
            ("GET", "/webhook"),
            ("HEAD", "/webhook"),
            ("PUT", "/webhook"),
            ("OPTIONS", "/webhook"),
            ("POST", "/"),
            ("POST", "/webhook/"),
            ("POST", "//webhook"),
            ("POST", "/Webhook"),
            ("GET", "/health"),
            ("GET", "/builds"),
            ("POST", "/build/trigger"),
            ("GET", "/webhook/../health"),
            ("GET", "/metrics"),
        ):
            data = request(body, headers(body), method=method, path=path)
            if method == "HEAD":
                data = data.replace(body, b"")
                async with server.session.head(server.public + path) as response:
                    assert response.status == 404
                continue
            answer = await send(server, data)
            assert answer.status == 404, (method, path)
            assert set(answer.json) == {"error", "status", "detail"}
        assert everything(quiet_world) == before


async def test_what_is_not_http_is_refused_and_leaves_no_trace(
    quiet_world: World,
) -> None:
    async with quiet_world.server() as server:
        before = everything(quiet_world)
        for data in (b"FROB /webhook HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\r\n\r\n"):
            answer = await send(server, data)
            assert 400 <= answer.status < 500
        assert everything(quiet_world) == before


@pytest.mark.parametrize("secrets", [(SECRET,), (NEW_SECRET, SECRET)])
async def test_either_of_two_live_secrets_signs(
    quiet_world: World, secrets: tuple[bytes, ...]
) -> None:
    world = quiet_world
    credentials = world.folder / "credentials"
    await asyncio.to_thread(credentials.mkdir)
    for name, secret in zip(
        ("webhook-secret", "webhook-secret-2"), secrets, strict=False
    ):
        await asyncio.to_thread((credentials / name).write_bytes, secret + b"\n")
    plain = world.write_configuration

    def write() -> Any:
        path = plain()
        kept = [
            line
            for line in path.read_text().splitlines()
            if "webhook_secret_file" not in line
        ]
        path.write_text("\n".join(kept))
        return path

    world.write_configuration = write  # type: ignore[method-assign] # credentials instead
    async with world.server(CREDENTIALS_DIRECTORY=str(credentials)) as server:
        for number, secret in enumerate((SECRET, NEW_SECRET)):
            body = good_push(f"push {number}")
            answer = await send(server, request(body, headers(body, secret)))
            assert answer.status == (202 if secret in secrets else 401)


async def test_a_signed_delivery_is_answered_to_the_letter(quiet_world: World) -> None:
    world = quiet_world
    body = good_push()
    fields = headers(body, guid="guid-one")
    encodings = [{"Content-Encoding": e} for e in ("gzip", "br", "identity")]
    form = b"payload=%7B%7D"
    refused: list[tuple[bytes, Mapping[str, str], int]] = [
        *((body, {**headers(body), **encoding}, 415) for encoding in encodings),
        (form, headers(form, content_type="application/x-www-form-urlencoded"), 415),
        (body, without(headers(body), "Content-Type"), 415),
        (body, without(headers(body), "X-GitHub-Event"), 400),
        (body, without(headers(body), "X-GitHub-Delivery"), 400),
    ]
    payload = make_push([make_commit(sha("x"))])
    broken: list[object] = [
        *({k: v for k, v in payload.items() if k != key} for key in NEEDED),
        {**payload, "after": "HEAD"},
        {**payload, "after": "A" * 40},
        {**payload, "after": sha("x")[:39]},
        {**payload, "before": 7},
        {**payload, "ref": None},
        {**payload, "commits": {}},
        {**payload, "commits": [make_commit("--upload-pack=x")]},
        {**payload, "repository": {"id": 1, "full_name": "../../etc"}},
        {**payload, "repository": {"id": "1", "full_name": "a/b"}},
        [],
        None,
    ]
    texts = [encode(item) for item in broken]
    texts += [b"", b"{", b"[" * 300_000, b'{"a":' * 100_000, b'{"ref": "\xff"}']
    refused += [(text, headers(text), 400) for text in texts]
    async with world.server() as server:
        before = everything(world)
        for data, given, status in refused:
            answer = await send(server, request(data, given))
            assert answer.status == status, (answer, data[:200])
            assert set(answer.json) == {"error", "status", "detail"}
            assert answer.json["status"] == status
        answer = await send(server, request(b"", headers(b""), length=LIMIT + 1))
        assert answer.status == 413
        assert everything(world) == before

        answer = await send(server, request(body, fields))
        assert (answer.status, answer.json) == (202, {"accepted": True, "builds": [1]})
        kept = [history(world, question) for question in RECORDED]
        answer = await send(server, request(body, fields))
        assert (answer.status, answer.json) == (202, {"accepted": True, "builds": [1]})
        again = [history(world, question) for question in RECORDED]
        assert again == kept


async def test_other_events_are_recorded_as_ignored_with_their_reason(
    quiet_world: World,
) -> None:
    deliveries = [
        ("issues", {"action": "opened"}, "issues"),
        ("check_suite", {"action": "requested"}, "check_suite"),
        ("nobody-knows-this", {}, "nobody-knows-this"),
        ("ping", make_ping(), "ping"),
        ("ping", make_ping(events=["issues"]), "push"),
        ("ping", {"zen": "of an organization", "hook_id": 1}, ""),
    ]
    async with quiet_world.server() as server:
        for event, payload, words in deliveries:
            body = encode(payload)
            answer = await send(server, request(body, headers(body, event=event)))
            assert 200 <= answer.status < 300, answer
            assert answer.json["accepted"] is False
            assert words in answer.json["reason"]
        rows = history(
            quiet_world, "SELECT event, accepted, reason FROM deliveries ORDER BY id"
        )
        assert [(event, accepted) for event, accepted, _ in rows] == [
            (event, 0) for event, _, _ in deliveries
        ]
        assert all(reason for _, _, reason in rows)


async def test_a_slow_body_ends_after_eight_seconds_and_a_large_one_is_taken(
    quiet_world: World,
) -> None:
    body = good_push()
    head = body[:-1] + b',"pad":"'
    large = head + b"x" * (LIMIT - len(head) - 2) + b'"}'
    assert len(large) == LIMIT
    async with quiet_world.server() as server:

        async def dawdle() -> tuple[int, float, float]:
            loop = asyncio.get_running_loop()
            with going_on() as clock:
                begun, awake = loop.time(), clock()
                said = await send(
                    server, request(body, headers(body))[:-1], whole=False
                )
                return said.status, loop.time() - begun, clock() - awake

        slow = asyncio.create_task(dawdle())
        answer = await send(server, request(large, headers(large)))
        assert answer.status == 202
        over = large + b" "
        answer = await send(server, request(over, headers(over)), whole=False)
        assert answer.status == 413
        status, seconds, awake = await slow
        assert status == 408
        assert seconds > 7.5
        assert awake < 12


async def test_branch_names_that_bite_are_data(command_world: World) -> None:
    world = command_world
    names = ["$(id)", "<svg-onload=1>", "a;id", "a|b", "'q'", '"q"', "40" * 20, "ä/ö"]
    world.repository |= {"branches": names}
    await asyncio.to_thread(script, world)
    for name in names:
        world.origin.branch(name)
    async with world.server() as server:
        for number, name in enumerate(names, 1):
            head = world.origin.commit({"n": str(number)}, branch=name)
            answer = await server.push(head, branch=name)
            assert answer == {"accepted": True, "builds": [number]}
        for number, name in enumerate(names, 1):
            build = await server.finished(number)
            assert (build["branch"], build["state"]) == (name, "succeeded")
        body = encode(make_push(1, branch="--upload-pack=touch canary"))
        refused = await send(server, request(body, headers(body)))
        assert (refused.status, refused.json["accepted"]) == (202, False)
    assert not list(world.folder.rglob("canary"))
