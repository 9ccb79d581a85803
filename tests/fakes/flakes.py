"""Sample flakes as commits: written into a repository, with locked inputs served here.

The flakes themselves are in tests/samples/nix/flakes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes.repository import Origin

# What the samples call x86_64-linux and aarch64-linux: this machine, and another.
HERE = f"{os.uname().machine}-linux"
THERE = "x86_64-linux" if HERE == "aarch64-linux" else "aarch64-linux"
SAMPLES = Path(__file__).resolve().parents[1] / "samples/nix/flakes"
NO_HASH = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
DEPENDENCY = {"flake.nix": '{ outputs = { self }: { value = "from afar"; }; }\n'}


def sample(name: str, **words: str) -> dict[str, str]:
    """The files of a sample flake, `@URL@` replaced by the keyword argument `URL`."""
    files = {}
    for path in sorted((SAMPLES / name).iterdir()):
        text = for_this_machine(path.read_text())
        for word, value in words.items():
            text = text.replace(f"@{word}@", value)
        files[path.name] = text
    return files


def for_this_machine(text: str) -> str:
    """A flake for this machine's system, from one that was written for x86_64-linux."""
    parts = text.split("x86_64-linux")
    return HERE.join(part.replace("aarch64-linux", THERE) for part in parts)


def commit_sample(origin: Origin, name: str, **words: str) -> str:
    """Commit a sample flake to the default branch; returns the commit's id."""
    return origin.commit(sample(name, **words), f"Sample {name}")


def one_package(script: str, *, name: str = "default") -> dict[str, str]:
    """A flake whose `packages.NAME` runs a shell script (which must write $out)."""
    escaped = json.dumps(script, ensure_ascii=False)[1:-1].replace("${", "\\${")
    return sample("one-package", NAME=name, SCRIPT=escaped)


def locked(name: str, locked: Mapping[str, Any], original: Mapping[str, Any]) -> str:
    """The text of a flake.lock with one input."""
    node = {"locked": locked, "original": original}
    nodes = {name: node, "root": {"inputs": {name: name}}}
    return json.dumps({"nodes": nodes, "root": "root", "version": 7})


def locked_tarball(url: str, files: Mapping[str, str] | None = None) -> str:
    """A flake.lock for the sample `inputs`, whose `dep` is a tarball of `files`."""
    original = {"type": "tarball", "url": url}
    content = nar_hash(DEPENDENCY if files is None else files)
    return locked("dep", {**original, "narHash": content}, original)


def nar_hash(files: Mapping[str, str]) -> str:
    """What Nix calls the narHash of a directory with these plain files."""

    def text(value: bytes) -> bytes:
        padding = b"\0" * (-len(value) % 8)
        return len(value).to_bytes(8, "little") + value + padding

    def words(line: str) -> bytes:
        return b"".join(text(word.encode()) for word in line.split())

    parts = [words("nix-archive-1 ( type directory")]
    for name in sorted(files):
        parts += [
            words("entry ( name"),
            text(name.encode()),
            words("node ( type regular"),
        ]
        parts += [words("contents"), text(files[name].encode()), words(") )")]
    parts.append(words(")"))
    digest = hashlib.sha256(b"".join(parts)).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def tarball(files: Mapping[str, str]) -> bytes:
    """A .tar.gz with these files in one directory, as code hosts give them out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"source/{name}")
            entry.size = len(content.encode())
            archive.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


class InputServer:
    """Serves tarballs on loopback and counts every request: what flakes fetch from."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []

    def serve(self, name: str, files: Mapping[str, str] = DEPENDENCY) -> str:
        """Offer a tarball; returns its URL."""
        self.files[f"/{name}"] = tarball(files)
        return f"{self.url}/{name}"


@contextmanager
def input_server() -> Iterator[InputServer]:
    """An InputServer in a thread, for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            offered.requests.append(self.path)
            body = offered.files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            """Requests are in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    offered = InputServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield offered
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
