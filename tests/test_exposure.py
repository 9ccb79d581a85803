"""The doctor looks at what Tailscale's Funnel makes public on this machine."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ci import config
from ci.adapters import process
from ci.doctor.exposure import exposure
from ci.models import Check

WEBHOOK = {"/webhook": {"Proxy": "http://127.0.0.1:8010/webhook"}}
HOST = "builder.example-tailnet.ts.net"
KEY = "build-server-1:" + "A" * 43 + "="


def _config(
    web: dict[str, Any], public: list[str], tcp: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A ServeConfig as `tailscale funnel status --json` prints it."""
    return {
        "TCP": {"443": {"HTTPS": True}, "8000": {"HTTP": True}, **(tcp or {})},
        "Web": {f"{HOST}:{at}": {"Handlers": each} for at, each in web.items()},
        "AllowFunnel": {f"{HOST}:{at}": True for at in public} or None,
    }


async def _look(tmp_path: Path, status: object, more: str = "") -> list[Check]:
    """What the doctor finds; a bare exit code stands for a Tailscale that is not up."""
    programs = tmp_path / "bin"
    programs.mkdir()
    tailscale = programs / "tailscale"
    said = f"exit {status}" if isinstance(status, int) else f"echo '{_json(status)}'"
    tailscale.write_text(f'#!/bin/sh\n[ "$*" = "funnel status --json" ] && {said}\n')
    tailscale.chmod(0o755)
    settings = config.parse(tomllib.loads(f'{more}\n[[repository]]\nname = "o/n"\n'))
    env = {"PATH": f"{programs}{os.pathsep}{os.defpath}"}
    return list(await exposure(settings, run=process.run, environ=env))


def _json(status: object) -> str:
    return json.dumps(status)


async def test_only_the_webhook_is_public(tmp_path: Path) -> None:
    private = {"/": {"Proxy": "http://127.0.0.1:8000"}}
    status = _config({"443": WEBHOOK, "8000": private}, ["443"])
    (check,) = await _look(tmp_path, status)
    assert check.ok
    assert check.detail == f"{HOST}:443/webhook → http://127.0.0.1:8010/webhook"


@pytest.mark.parametrize(
    ("status", "said", "port"),
    [
        (
            _config(
                {"443": WEBHOOK | {"/": {"Proxy": "http://localhost:8000"}}}, ["443"]
            ),
            f"pages and API ({HOST}:443/ → http://localhost:8000)",
            "443",
        ),
        (
            _config({"8443": {"/c": {"Proxy": "http://100.64.0.7:5000/x"}}}, ["8443"]),
            f"the cache ({HOST}:8443/c → http://100.64.0.7:5000/x)",
            "8443",
        ),
        (
            _config({}, ["10000"], {"10000": {"TCPForward": "127.0.0.1:5000"}}),
            "the cache (:10000 → 127.0.0.1:5000)",
            "10000",
        ),
        (
            # A command that runs in a terminal.
            {
                "Foreground": {
                    "1f": _config(
                        {"443": {"/": {"Proxy": "https+insecure://[::1]:8000"}}},
                        ["443"],
                    )
                }
            },
            f"pages and API ({HOST}:443/ → https+insecure://[::1]:8000)",
            "443",
        ),
    ],
)
async def test_what_is_private_and_became_public_is_found(
    tmp_path: Path, status: object, said: str, port: str
) -> None:
    cache = f'[cache]\nurl = "http://127.0.0.1:5000"\npublic_key = "{KEY}"'
    (check,) = await _look(tmp_path, status, cache)
    assert not check.ok
    assert check.detail == f"the internet reaches {said}"
    assert check.fix.startswith(f"tailscale funnel --https={port} off; ")


async def test_a_socket_file_can_be_public_too(tmp_path: Path) -> None:
    path = tmp_path / "private.sock"
    status = _config({"443": {"/": {"Proxy": f"unix:{path}"}}}, ["443"])
    (check,) = await _look(tmp_path, status, f'[listen]\nprivate = "unix:{path}"')
    assert (check.ok, "pages and API" in check.detail) == (False, True)


@pytest.mark.parametrize("status", [None, {}, _config({"443": WEBHOOK}, [])])
async def test_funnel_may_be_off(tmp_path: Path, status: object) -> None:
    (check,) = await _look(tmp_path, status)
    assert (check.ok, check.detail) == (True, "Tailscale's Funnel is off")


async def test_without_tailscale_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert await _look(tmp_path, 1) == []
    (tmp_path / "bin" / "tailscale").unlink()
    settings = config.parse(tomllib.loads('[[repository]]\nname = "o/n"\n'))
    env = {"PATH": str(tmp_path / "bin")}
    assert await exposure(settings, run=process.run, environ=env) == []
