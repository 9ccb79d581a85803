"""Messages for people, through Apprise: ntfy, e-mail, chats, any webhook.

Apprise is an optional library, and a large one that talks to strangers: it runs in a
process of its own for each message, with bounded time and memory. The addresses, which
hold tokens and passwords, reach it by standard input: never as an argument or in the
environment, where other users of this machine could read them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from ci.adapters import process
from ci.errors import HostFault
from ci.text import printable

TIMEOUT = 30.0
"""Seconds for one message to all addresses."""

# What the child waits for answers, so that it has time to start, and to say who was late.
PATIENCE = 24.0
MEMORY = 1024 * 1024 * 1024
LONGEST_ANSWER = 1024 * 1024
CHILD = Path(__file__).with_name("apprise_child.py")

INSTALL = (
    "install it: `pip install 'build-server[notify]'`; with Nix the package needs "
    '`extras = [ "notify" ]`, which is its default'
)

Kind = Literal["info", "success", "warning", "failure"]


@dataclass(frozen=True)
class Message:
    """What to tell; `title` is one line, `body` plain text."""

    title: str
    body: str
    kind: Kind = "info"


@dataclass(frozen=True)
class Delivery:
    """What became of a message at one address.

    `service` is what Apprise calls it (`ntfy`), `mark` a short digest that tells it from
    the others; `error` is empty when it went.
    """

    service: str
    mark: str
    error: str

    @property
    def sent(self) -> bool:
        return not self.error


def installed() -> bool:
    """Whether there is an Apprise to run."""
    return find_spec("apprise") is not None


async def send(
    addresses: str,
    message: Message,
    *,
    reached: Collection[str] = (),
    env: Mapping[str, str] = os.environ,
    patience: float = PATIENCE,
) -> list[Delivery]:
    """Try every address of the file's content once, but for those marked in `reached`.

    Redirects and slow answers are bounded by `patience` seconds. Raises HostFault when
    Apprise is not installed, does not answer, or finds no address that it understands.
    """
    if not await asyncio.to_thread(installed):
        raise HostFault(f"Apprise is not installed; {INSTALL}")
    order = {
        "libraries": [str(path) for path in sys.path],
        "addresses": addresses,
        "title": message.title,
        "body": message.body,
        "kind": message.kind,
        "reached": list(reached),
        "seconds": patience,
        "memory": MEMORY,
    }
    try:
        finished = await process.run(
            [sys.executable, "-I", "-B", str(CHILD)],
            env=_clean(env),
            input=json.dumps(order).encode(),
            timeout=patience + TIMEOUT - PATIENCE,
            limit=LONGEST_ANSWER,
        )
    except TimeoutError:
        raise HostFault(f"Apprise did not answer within {TIMEOUT:g} seconds") from None
    found = _deliveries(finished.stdout)
    if not found:
        raise HostFault(
            "Apprise understands none of the addresses in notify.urls_file"
            if finished.code == 0
            # What it printed may repeat an address.
            else f"Apprise ended with code {finished.code}"
        )
    return found


def _deliveries(output: bytes) -> list[Delivery]:
    """The child's answers; a line that was cut off is none."""
    answers = []
    for line in output.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict):
            answers.append(
                Delivery(
                    service=printable(str(answer.get("service", ""))),
                    mark=str(answer.get("mark", "")),
                    error=printable(str(answer.get("error", ""))),
                )
            )
    return answers


def _clean(env: Mapping[str, str]) -> dict[str, str]:
    """What Apprise needs of the environment: programs, certificates, a proxy."""
    wanted = ("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE")
    proxies = ("http_proxy", "https_proxy", "no_proxy")
    names = (*wanted, "REQUESTS_CA_BUNDLE", *proxies, *map(str.upper, proxies))
    # Each thread would take address space, which is bounded, for an arena of its own.
    return {name: env[name] for name in names if name in env} | {
        "MALLOC_ARENA_MAX": "2"
    }
