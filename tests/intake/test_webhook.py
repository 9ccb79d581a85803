from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import sqlite3
import time
from pathlib import Path

import pytest

from tests.fakes.push import (
    SECRET,
    encode,
    headers,
    make_ping,
    make_push,
    sha,
    sign,
)
from tests.intake.edge import Answer, Edge

PAYLOADS = Path(__file__).parents[1] / "samples/payloads"
CONSTANT_401 = (
    b'{"error": "the signature is missing or wrong", "status": 401, "detail": {}}\n'
)
CONSTANT_404 = b'{"error": "there is nothing here", "status": 404, "detail": {}}\n'
BODY = encode(make_push(2))


def brief(answer: Answer) -> tuple[int, str]:
    status, shape = answer
    assert shape == {"error": shape["error"], "status": status, "detail": {}}
    return status, shape["error"]


async def test_a_push_becomes_builds_before_it_is_acknowledged(edge: Edge) -> None:
    status, answer = await edge.deliver(make_push(3, before=sha(0)))
    assert status == 202
    assert answer["accepted"] is True
    builds = await edge.rows("builds")
    assert answer == {"accepted": True, "builds": [row["number"] for row in builds]}
    assert [row["title"] for row in builds] == ["push 0", "push 1", "push 2"]
    assert {row["state"] for row in builds} == {"queued"}
    (row,) = await edge.rows()
    assert (row["event"], row["accepted"], row["hook_id"]) == ("push", 1, "30")
    assert (row["ref"], row["before_sha"]) == ("refs/heads/dev", sha(0))
    assert edge.wake.count == 1


async def test_what_leads_to_nothing_is_recorded_with_its_reason(edge: Edge) -> None:
    told = [
        await edge.deliver(make_push(branch="main")),
        await edge.deliver(make_push(ref="refs/tags/v1")),
        await edge.deliver(make_push(0, deleted=True)),
        await edge.deliver(make_push(repo="octo-org/unknown", github_id=5)),
        await edge.deliver(make_ping(), event="ping"),
        await edge.deliver({"action": "opened"}, event="issues"),
        await edge.deliver([], event="__init__"),
    ]
    rows = await edge.rows()
    assert [status for status, _ in told] == [202] * 7
    assert [answer["accepted"] for _, answer in told] == [False] * 7
    assert [answer["reason"] for _, answer in told] == [row["reason"] for row in rows]
    assert all(row["reason"] and not row["accepted"] for row in rows)
    assert await edge.rows("builds") == []
    assert edge.wake.count == 0


async def test_every_recorded_example_is_understood(edge: Edge) -> None:
    paths = sorted(PAYLOADS.glob("p*-*.json"))
    for path in paths:
        body = path.read_bytes()
        event = path.stem.partition("-")[0]
        status, answer = await edge.post(body, headers(body, event=event))
        assert (status, answer["accepted"]) == (202, False), path
    assert len(await edge.rows()) == len(paths) == 11


async def test_a_hundred_copies_at_once_are_one_delivery(edge: Edge) -> None:
    head = headers(BODY)
    answers = await asyncio.gather(*(edge.post(BODY, head) for _ in range(100)))
    assert answers == [(202, {"accepted": True, "builds": [1, 2]})] * 100
    assert len(await edge.rows()) == 1
    assert len(await edge.rows("builds")) == 2
    # A redelivery next week has the same GUID.
    assert await edge.post(BODY, head) == answers[0]
    assert edge.wake.count == 1


async def test_a_replay_under_another_guid_builds_nothing_twice(edge: Edge) -> None:
    first = await edge.post(BODY, headers(BODY))
    second = await edge.post(BODY, headers(BODY))
    assert first == second
    assert len(await edge.rows("builds")) == 2


async def test_different_pushes_at_once_share_commits_and_keep_their_answers(
    edge: Edge,
) -> None:
    pushes = [make_push(1, label=str(n)) for n in range(200)]
    answers = await asyncio.gather(*(edge.deliver(push) for push in pushes))
    builds = {row["sha"]: row["number"] for row in await edge.rows("builds")}
    for push, (status, answer) in zip(pushes, answers, strict=True):
        assert (status, answer["builds"]) == (202, [builds[push["after"]]])
    assert edge.wake.count < 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/webhook"),
        ("HEAD", "/webhook"),
        ("PUT", "/webhook"),
        ("OPTIONS", "/webhook"),
        ("POST", "/"),
        ("GET", "/"),
        ("POST", "/webhook/"),
        ("POST", "/webhook/x"),
        ("POST", "/Webhook"),
        ("POST", "/build/trigger"),
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/../webhook"),
    ],
)
async def test_everything_else_is_one_constant_404(
    edge: Edge, method: str, path: str
) -> None:
    # A good signature opens no other door.
    async with edge.client.request(
        method, path, data=BODY, headers=headers(BODY)
    ) as response:
        body = await response.read()
    assert response.status == 404
    assert body == (b"" if method == "HEAD" else CONSTANT_404)
    assert response.headers["Server"] == "build-server"
    assert await edge.rows() == []


@pytest.mark.parametrize(
    "line",
    [
        b"OPTIONS * HTTP/1.1",
        b"CONNECT example.org:443 HTTP/1.1",
        b"PROPFIND /webhook HTTP/1.1",
        b"GET / HTTP/1.1\r\nExpect: a-surprise",
        b"GET /webhook HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade",
    ],
)
async def test_odd_requests_get_it_too(edge: Edge, line: bytes) -> None:
    answer = await edge.raw(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert body == CONSTANT_404


def sha1_signed(body: bytes) -> str:
    return "sha1=" + hmac.new(SECRET, body, hashlib.sha1).hexdigest()


UNSIGNED_HEADERS: dict[str, dict[str, str]] = {
    "none": {},
    "wrong": {"X-Hub-Signature-256": sign(BODY, b"x" * 32)},
    "of another body": {"X-Hub-Signature-256": sign(b"other")},
    "empty": {"X-Hub-Signature-256": ""},
    "short": {"X-Hub-Signature-256": "sha256=00"},
    "capitals": {"X-Hub-Signature-256": sign(BODY).upper()},
    "not ASCII": {"X-Hub-Signature-256": "sha256=" + "é" * 64},
    "SHA-1 only": {"X-Hub-Signature": sha1_signed(BODY)},
    "SHA-1 as 256": {"X-Hub-Signature-256": sha1_signed(BODY)},
    "empty key": {"X-Hub-Signature-256": sign(BODY, b"")},
}


async def test_without_a_signature_all_is_one_constant_401_and_no_trace(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    good = headers(BODY)
    del good["X-Hub-Signature-256"]
    variants: list[dict[str, str]] = [
        {},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Encoding": "gzip"},
        {"X-GitHub-Event": "nothing"},
        {"X-GitHub-Delivery": ""},
    ]
    seen, begun = set(), time.monotonic()
    for unsigned in UNSIGNED_HEADERS.values():
        for variant in variants:
            async with edge.client.post(
                "/webhook", data=BODY, headers=good | variant | unsigned
            ) as response:
                seen.add((response.status, await response.read()))
    assert seen == {(401, CONSTANT_401)}
    assert await edge.rows() == []
    assert await edge.rows("repositories") == []
    assert edge.wake.count == 0
    lines = [record for record in caplog.records if "401" in record.getMessage()]
    assert 1 <= len(lines) <= time.monotonic() - begun + 1, "at most one a second"


async def test_both_secrets_work_while_one_replaces_the_other(edge: Edge) -> None:
    old, new = SECRET, b"n" * 32
    body = encode(make_ping())
    for live, signer, expected in [
        ([old], new, 401),
        ([new, old], old, 202),
        ([new, old], new, 202),
        ([new], old, 401),
        ([], old, 401),
    ]:
        edge.secrets[:] = live
        status, _ = await edge.post(body, headers(body, signer, event="ping"))
        assert status == expected


async def test_a_signed_form_says_how_to_change_it(edge: Edge) -> None:
    body = b"payload=%7B%7D"
    form = headers(body, content_type="application/x-www-form-urlencoded")
    status, sentence = brief(await edge.post(body, form))
    assert status == 415
    assert "application/json" in sentence
    assert "Content type" in sentence
    status, sentence = brief(
        await edge.post(BODY, headers(BODY) | {"Content-Encoding": "gzip"})
    )
    assert status == 415
    assert "Content-Encoding" in sentence
    accepted = headers(BODY, content_type="Application/JSON; charset=utf-8")
    assert (await edge.post(BODY, accepted))[0] == 202
    assert len(await edge.rows()) == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"X-GitHub-Delivery": ""}, "X-GitHub-Delivery is missing"),
        ({"X-GitHub-Event": ""}, "X-GitHub-Event is missing"),
        ({"X-GitHub-Delivery": "é"}, "X-GitHub-Delivery is not"),
        ({"X-GitHub-Event": "push\u00a0"}, "X-GitHub-Event is not"),
        ({"X-GitHub-Event": "x" * 8000}, "X-GitHub-Event is not"),
        ({"X-GitHub-Hook-ID": "7\t7"}, "X-GitHub-Hook-ID is not"),
    ],
)
async def test_headers_that_github_would_not_send(
    edge: Edge, changed: dict[str, str], sentence: str
) -> None:
    status, message = brief(await edge.post(BODY, headers(BODY) | changed))
    assert status == 400
    assert sentence in message
    assert await edge.rows() == []


async def test_a_malformed_push_is_refused_and_not_recorded(edge: Edge) -> None:
    for body in (b"{", b"[" * 100_000, b'{"ref": "\\ud800"}', BODY[:-1], b""):
        status, message = brief(await edge.post(body, headers(body)))
        assert status == 400
        assert "not a push payload" in message
    assert await edge.rows() == []


async def test_a_renamed_repository_is_followed_at_once(edge: Edge) -> None:
    renamed = make_push(label="new", repo="new-org/new-name")
    status, answer = await edge.deliver(renamed)
    assert (status, answer["accepted"]) == (202, False)
    await edge.deliver(make_push())
    assert (await edge.deliver(renamed))[1]["accepted"] is True
    (row,) = await edge.rows("repositories")
    assert row["github_name"] == "new-org/new-name"


async def test_no_header_but_the_named_ones_is_kept_anywhere(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "c4n4ry-secret"
    leaky = {"X-Github-Encoded-Secret": canary, "Authorization": f"Bearer {canary}"}
    await edge.post(BODY, headers(BODY) | leaky)
    await edge.post(BODY, leaky)
    await edge.post(b"{", headers(b"{") | leaky)
    dump = await edge.database.read(lambda c: "\n".join(c.iterdump()))
    assert "push 0" in dump
    for place in (dump, caplog.text):
        assert canary not in place
        assert SECRET.decode() not in place


async def test_when_nothing_can_be_recorded_nothing_is_acknowledged(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    def break_it(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE deliveries RENAME TO hidden")

    def mend_it(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE hidden RENAME TO deliveries")

    head = headers(BODY)
    await edge.database.write(break_it)
    status, sentence = brief(await edge.post(BODY, head))
    assert status == 503
    assert "could not be recorded" in sentence
    assert "no such table" in caplog.text
    await edge.database.write(mend_it)
    assert (await edge.post(BODY, head))[0] == 202
    assert len(await edge.rows("builds")) == 2
