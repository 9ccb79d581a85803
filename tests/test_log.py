"""The service's own log: one line for each event, no secret, nothing forged."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, strategies as st

from ci.config.secret_files import Secrets
from ci.log import Handler, RateLimit, Redactor, setup, wants_colour

CANARY = "ghp_c4n4ry/C4N4RY+c4n4ry"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END"
SECRETS = Secrets(
    webhook=(b"webhook-" + CANARY.encode(),),
    github_token=CANARY,
    app_key=PEM,
    api_token="api-" + CANARY,
)
log = logging.getLogger("ci.intake.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def logging_to(stream: io.StringIO, **environ: str) -> Iterator[Handler]:
    """The log as `serve` sets it up, taken down afterwards."""
    root = logging.getLogger()
    level = root.level
    handler = setup(stream, environ, SECRETS)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def fail() -> None:
    raise ValueError(f"cannot use {CANARY}\nreally")


def test_a_line_is_json_where_nobody_looks() -> None:
    stream = io.StringIO()
    with logging_to(stream):
        log.info("build %d queued", 412, extra={"build": 412, "branch": "a\nb"})
        try:
            fail()
        except ValueError:
            log.exception("it broke", extra={"level": "forged"})
        log.debug("unseen")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["time"].endswith("Z")
    assert {key: first[key] for key in ("level", "logger", "message")} == {
        "level": "info",
        "logger": "ci.intake.test",
        "message": "build 412 queued",
    }
    assert (first["build"], first["branch"]) == (412, "a\\nb")
    assert second["level"] == "error"
    assert second["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert second["exception"].splitlines()[-2:] == [
        "ValueError: cannot use [secret]",
        "really",
    ]


def test_a_line_is_for_people_on_a_terminal() -> None:
    stream = Terminal()
    with logging_to(stream):
        log.warning("disk is low", extra={"free": 7})
        try:
            fail()
        except ValueError:
            log.exception("it broke")
    first, second = stream.getvalue().splitlines()
    assert first[2:6:3] == "::"
    assert first[9:] == "\x1b[33mWARNING\x1b[0m intake.test: disk is low  free=7"
    assert "ValueError: cannot use [secret]\\nreally (test_log.py:" in second
    assert second.endswith("test_a_line_is_for_people_on_a_terminal)")


@pytest.mark.parametrize(
    ("terminal", "environ", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colour_only_where_it_is_welcome(
    terminal: bool, environ: dict[str, str], coloured: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    assert wants_colour(stream, environ) is coloured
    with logging_to(stream, **environ):
        log.error("x")
    assert ("\x1b[" in stream.getvalue()) is coloured


@given(text=st.text(max_size=40), terminal=st.booleans())
def test_text_from_outside_forges_nothing(text: str, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    with logging_to(stream, NO_COLOR="1"):
        log.info("branch %s is ignored", text, extra={"branch": text})
        try:
            raise RuntimeError(text)
        except RuntimeError:
            log.exception("odd %s", text)
    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    if not terminal:
        assert json.loads(lines[0])["message"].isprintable()


def test_a_secret_is_never_written(tmp_path: Path) -> None:
    basic = base64.b64encode(f"x-access-token:{CANARY}".encode()).decode()
    odd = base64.b64encode(f"u:{CANARY}".encode()).decode()
    written = [
        CANARY,
        f"Bearer {CANARY}",
        f"Authorization: Basic {basic}",
        f"Basic {odd}",
        "https://x:ghp_c4n4ry%2FC4N4RY%2Bc4n4ry@github.com/o/r",
        PEM,
        "hkiG9w0BAQEFAASC",
        f"webhook-{CANARY}",
    ]
    for stream in (io.StringIO(), Terminal()):
        with logging_to(stream) as handler:
            handler.redact.add(["minted-at-run-time"])
            for text in [*written, "minted-at-run-time"]:
                log.info(text)
                log.info("%s", [text], extra={"field": text})
                try:
                    raise RuntimeError(text)
                except RuntimeError:
                    log.exception("%(a)s", {"a": text})
        said = stream.getvalue()
        for leak in ("c4n4ry", "hkiG9w0", "MIIEvQ", "minted", basic[24:], odd[6:]):
            assert leak not in said
        assert said.count("[secret]") >= 4 * len(written)


@given(
    before=st.text(max_size=9),
    secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16),
    after=st.text(max_size=9),
)
def test_a_secret_is_found_wherever_it_stands(
    before: str, secret: str, after: str
) -> None:
    redact = Redactor([secret])
    assert secret not in redact(f"{before}{secret}{after}").replace("[secret]", "")
    escaped = json.dumps({"token": secret})
    assert redact(escaped) == '{"token": "[secret]"}'
    whole = base64.b64encode(f"{before}{secret}{after}".encode()).decode()
    assert "[secret]" in redact(whole)


def test_a_line_that_cannot_be_written_says_nothing_of_itself() -> None:
    script = f"""
import logging, os, sys
from ci.log import setup
reader, writer = os.pipe()
os.close(reader)
setup(os.fdopen(writer, "w", buffering=1), {{}})
logging.getLogger("ci").error("the token is %s", "{CANARY}")
logging.getLogger("ci").error("%d", "{CANARY}")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    lost = [line for line in done.stderr.splitlines() if "lost a log line" in line]
    assert len(lost) == 2
    assert CANARY not in done.stderr + done.stdout


def test_a_real_terminal_is_one() -> None:
    """Through a pseudo-terminal: colour for people, JSON when piped."""
    script = "import sys, logging; from ci.log import setup; setup(sys.stderr, {}); "
    script += "logging.getLogger('ci.app').warning('hello')"
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stderr=theirs, check=True)
    os.close(theirs)
    seen = ""
    # A terminal gives out what was written in as many pieces as it likes.
    while "\n" not in seen:
        seen += os.read(ours, 4096).decode()
    os.close(ours)
    assert "\x1b[33mWARNING\x1b[0m app: hello\r\n" in seen
    piped = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert json.loads(piped.stderr)["message"] == "hello"


def test_setting_it_up_again_writes_each_line_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    with logging_to(first), logging_to(second):
        log.warning("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_noise_is_counted_instead_of_written() -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0, 4.0, 61.0, 62.0])
    limit = RateLimit(burst=2, seconds=60, clock=lambda: next(clock))
    records = [logging.makeLogRecord({"msg": str(n)}) for n in range(6)]
    passed = [record for record in records if limit.filter(record)]
    assert [record.msg for record in passed] == ["0", "1", "4", "5"]
    assert vars(passed[2])["held_back"] == 2
    assert "held_back" not in vars(passed[3])


async def test_malformed_requests_cannot_flood_the_log() -> None:
    stream = io.StringIO()
    runner = web.AppRunner(web.Application())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    with logging_to(stream):
        for _ in range(20):
            await _send(host, port, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        await runner.cleanup()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert 1 <= len([line for line in lines if line["logger"] == "aiohttp.server"]) <= 5


async def _send(host: str, port: int, request: bytes) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(request)
    assert b" 400 " in await reader.readline()
    writer.close()
    await writer.wait_closed()
