"""A program of its own that hands one message to Apprise: read standard input, answer, end.

Started by path, so that it can be given the libraries of the server that starts it. In:
one JSON object (`libraries`, `addresses`, `title`, `body`, `kind`, `reached`, `seconds`,
`memory`). Out: one JSON object per address (`service`, `mark`, `sent`, `error`), as each
is known. Addresses hold secrets: nothing that is answered repeats a part of one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import re
import resource
import sys
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from apprise import NotifyBase

# Digits of a digest that tell addresses of one file apart, and tell nothing of them.
MARK = 6
AT_A_TIME = 8
SHORTEST_SECRET = 3
LONGEST_REASON = 200


def main() -> None:
    order = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_AS, (order["memory"], order["memory"]))
    sys.path[:] = order["libraries"]
    services = _services(order["addresses"])
    secrets = frozenset(part for each in services for part in _secrets(each))
    pool = ThreadPoolExecutor(AT_A_TIME)
    tries: dict[Future[str], tuple[str, str]] = {}
    for service in services:
        name, mark = str(service.service_name), _mark(service)
        if mark in order["reached"]:
            _answer(name, mark, "")
        else:
            tries[pool.submit(_send, service, order, secrets)] = (name, mark)
    done, late = wait(tries, timeout=order["seconds"])
    for each in done:
        _answer(*tries[each], _outcome(each))
    for each in late:
        _answer(*tries[each], f"no answer within {order['seconds']:g} s")
    # A thread that still waits for an answer must not keep the process.
    os._exit(0)


def _services(addresses: str) -> list[NotifyBase]:
    """What Apprise makes of the file's content; addresses that it cannot read are left."""
    import apprise

    asset = apprise.AppriseAsset(
        app_id="build-server",
        app_desc="build-server",
        app_url="",
        image_url_mask="",
        image_url_logo="",
        image_path_mask="",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    everyone, file = apprise.Apprise(asset=asset), apprise.AppriseConfig(asset=asset)
    file.add_config(addresses)
    everyone.add(file)
    return list(everyone)


class _Heard(logging.Handler):
    """What Apprise says of one address: before 2.0 it does so in the thread that asks."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())

    def entry(self, entry: Any, _service: object) -> None:
        """Since 2.0 it has threads of its own, and tells what was said."""
        if entry.level in ("WARNING", "ERROR", "CRITICAL"):
            self.lines.append(str(entry.message))


def _send(service: NotifyBase, order: dict[str, Any], secrets: frozenset[str]) -> str:
    """Why it did not go; empty when it went."""
    import apprise

    one = apprise.Apprise(asset=service.asset)
    one.add(service)
    heard, said = _Heard(), logging.getLogger("apprise")
    tells = "log_callback" in inspect.signature(one.notify).parameters
    listening: dict[str, Any] = {"log_callback": heard.entry} if tells else {}
    if not tells:
        said.addHandler(heard)
    try:
        sent = one.notify(
            body=order["body"],
            title=order["title"],
            notify_type=order["kind"],
            body_format=apprise.NotifyFormat.TEXT,
            **listening,
        )
    finally:
        said.removeHandler(heard)
    if sent:
        return ""
    reason = " ".join(" ".join(heard.lines).split())
    return _without(secrets, reason) or "it refused the message"


def _outcome(done: Future[str]) -> str:
    error = done.exception()
    # The text of an exception may repeat an address.
    return f"it failed: {type(error).__name__}" if error else done.result()


def _without(secrets: Collection[str], reason: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        reason = reason.replace(secret, "…")
    return reason[:LONGEST_REASON]


def _secrets(service: NotifyBase) -> Iterator[str]:
    """Every part of an address: which of them are secret differs from service to service."""
    for part in re.split(r"[/:@?&=,#]+", _address(service).partition("://")[2]):
        for text in (part, unquote(part)):
            if len(text) >= SHORTEST_SECRET:
                yield text


def _mark(service: NotifyBase) -> str:
    return hashlib.sha256(_address(service).encode()).hexdigest()[:MARK]


def _address(service: NotifyBase) -> str:
    return str(service.url(privacy=False))  # type: ignore[no-untyped-call]


def _answer(service: str, mark: str, error: str) -> None:
    answer = {"service": service, "mark": mark, "sent": not error, "error": error}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
