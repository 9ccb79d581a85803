"""Tens of thousands of different signed pushes, without keeping their bytes.

All are GitHub's recorded push of one commit, each with a new head, the head of the one
before as its `before`, and a GUID and a signature of its own. A record holds only what
differs; the generators (replay.lua, replay.py) put it into the template.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.push import SECRET, headers
from tests.fakes.tree import CHECKOUT

SAMPLE = CHECKOUT / "tests/samples/payloads/push-branch-created-installation.json"
PATH = "/webhook"

# One byte stands for each field of a record; JSON and headers never hold these bytes.
GUID, SIGNATURE, AFTER, BEFORE = b"\x01", b"\x02", b"\x03", b"\x04"
SIZES = {GUID: 36, SIGNATURE: 64, AFTER: 40, BEFORE: 40}


@dataclass(frozen=True)
class Deliveries:
    """Files for a generator, and what a server must be configured for; sizes in bytes."""

    template: Path
    records: Path
    count: int
    body_size: int
    repo: str
    branch: str


def make(folder: Path, count: int) -> Deliveries:
    """Write the template and `count` records into `folder`."""
    payload = json.loads(SAMPLE.read_text(encoding="utf-8"))
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
    body = text.replace(payload["before"].encode(), BEFORE)
    body = body.replace(payload["after"].encode(), AFTER)
    template, records = folder / "template", folder / "records"
    template.write_bytes(_head(len(text)) + body)
    with records.open("wb") as file:
        before = payload["before"].encode()
        for number in range(count):
            after = hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()
            sha = after.encode()
            filled = body.replace(BEFORE, before).replace(AFTER, sha)
            signature = hmac.digest(SECRET, filled, "sha256").hex().encode()
            guid = str(
                uuid.UUID(
                    bytes=hashlib.md5(b"%d" % number, usedforsecurity=False).digest()
                )
            ).encode()
            file.write(guid + signature + sha + before)
            before = sha
    return Deliveries(
        template=template,
        records=records,
        count=count,
        body_size=len(text),
        repo=payload["repository"]["full_name"],
        branch=payload["ref"].removeprefix("refs/heads/"),
    )


def _head(size: int) -> bytes:
    marked = headers(b"") | {
        "X-GitHub-Delivery": GUID.decode(),
        "X-Hub-Signature-256": f"sha256={SIGNATURE.decode()}",
        "Content-Length": str(size),
    }
    lines = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in marked.items()]
    return "\r\n".join([*lines, "", ""]).encode()
