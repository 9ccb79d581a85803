"""What the server builds, on a machine that has nix/modules/nixos/build-client.nix.

The client is a store of its own with the module's `nix.settings` as its nix.conf, line for
line; only the address, the key and the directory are this test's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.end_to_end.server import World
from tests.end_to_end.test_cache import make_key
from tests.end_to_end.wire import going_on
from tests.fakes.flakes import one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.ports import keep_port, port_of
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until
from tests.nix.client_settings import client_settings

# What the module leaves to the system: nothing of it is about caches.
SYSTEM = {
    "experimental-features": ["nix-command", "flakes"],
    "build-users-group": "",
    "sandbox": False,
    "flake-registry": "",
}
NAME = "fetched-by-clients"
SLEEPING_SECONDS = 5.0


@dataclass(frozen=True)
class Client:
    """A second machine: a directory, and the Nix that uses it."""

    store: NixStore
    folder: Path

    def configure(self, settings: Mapping[str, Any]) -> None:
        (self.folder / "etc").mkdir(parents=True, exist_ok=True)
        lines = (f"{key} = {_word(value)}\n" for key, value in settings.items())
        (self.folder / "etc/nix.conf").write_text("".join(lines))

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """`nix ARGV…` with a store of its own, below `folder`."""
        env = {
            **self.store.env,
            "NIX_CONF_DIR": str(self.folder / "etc"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }
        whole = [self.store.program, *argv, "--store", str(self.folder / "root")]
        return subprocess.run(whole, env=env, text=True, capture_output=True)

    def fetch(self, path: str) -> subprocess.CompletedProcess[str]:
        """Ask for a path, and build nothing."""
        return self.run("build", path, "--no-link", "--max-jobs", "0")

    def has(self, path: str) -> bool:
        return (self.folder / "root/nix/store" / Path(path).name).exists()


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Built:
    """What a server has built, `path` (of `store`), and the key that its cache uses."""

    world: World
    store: NixStore
    path: str
    public: str

    async def client(
        self, name: str, *, url: str, key: str, then: str | None = None
    ) -> Client:
        """A new machine whose module is given the address and key of a cache.

        `then` is another cache, which it asks afterwards.
        """
        client = Client(self.store, self.world.folder / name)
        said = await asyncio.to_thread(
            client_settings, self.store, url=url, key=key, then=then
        )
        client.configure({**SYSTEM, **said})
        return client

    async def cache(self) -> Path:
        """A folder with what was built, as a binary cache that is signed."""
        folder = self.world.folder / "cache"
        target = f"file://{folder}?secret-key={self.world.folder}/secret"
        await asyncio.to_thread(self.store.run, "copy", "--to", target, self.path)
        return folder

    async def fetched_by(self, client: Client) -> tuple[float, str]:
        """The seconds that it took the client to fetch what was built, and what it said."""
        assert not client.has(self.path)
        with going_on() as clock:
            begun = clock()
            done = await asyncio.to_thread(client.fetch, self.path)
            seconds = clock() - begun
        assert done.returncode == 0, done.stderr
        inside = client.folder / "root/nix/store" / Path(self.path).name
        assert inside.read_text() == "from the server\n"
        asked = ("path-info", "--json", "--sigs", self.path)
        said = await asyncio.to_thread(client.run, *asked)
        assert f"{self.public.partition(':')[0]}:" in said.stdout, said.stderr
        return seconds, done.stderr


@pytest.fixture
async def built(
    tmp_path: Path, origin: Origin, github: FakeGitHub, nix: NixStore
) -> Built:
    """A commit that the service has built, and a key to sign it with."""
    world = World(tmp_path, origin, github, nix.env, nix.program)
    sha = origin.commit(one_package("echo from the server > $out", name=NAME))
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "succeeded", str(build)
        (target,) = build["targets"]
        path = str(target["outputs"]["out"])
    program = str(Path(nix.program).with_name("nix-store"))
    public = await asyncio.to_thread(make_key, tmp_path, program, dict(nix.env))
    return Built(world, nix, path, public)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a web server for the files in `folder`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    handler = partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def asleep() -> Iterator[str]:
    """The address of a machine that sleeps: packets to it are dropped.

    A socket whose queue of connections is full; the kernel lets further ones wait.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _ in range(8)]
        try:
            for one in waiting:
                one.settimeout(0.2)
                started = one.connect_ex(listening.getsockname())
                if started in (errno.EAGAIN, errno.EINPROGRESS):
                    break
            else:
                pytest.skip("this kernel refuses no connection: no sleep is imitated")
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()


async def test_a_client_fetches_what_the_server_built(built: Built) -> None:
    with served(await built.cache()) as url:
        client = await built.client("client", url=url, key=built.public)
        seconds, _ = await built.fetched_by(client)

        # The same name, another key: of somebody who has taken the address.
        other = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        doubting = await built.client("doubting", url=url, key=other)
        refused = await asyncio.to_thread(doubting.fetch, built.path)
        assert refused.returncode != 0
        assert (
            "not signed by any of the keys in 'trusted-public-keys'" in refused.stderr
        )
        assert not doubting.has(built.path)

        # The server sleeps, another cache does not: what it costs to be passed on.
        with asleep() as sleeping:
            patient = await built.client(
                "patient", url=sleeping, key=built.public, then=url
            )
            slept, said = await built.fetched_by(patient)
        assert slept - seconds < SLEEPING_SECONDS
        # It was asked.
        assert f"unable to download '{sleeping}/nix-cache-info'" in said


async def test_who_asked_too_early_fetches_a_minute_later(built: Built) -> None:
    """Nix remembers that a cache had not got it; by itself for an hour."""
    folder = built.world.folder / "early"
    folder.mkdir()
    store = built.store.env["NIX_STORE_DIR"]
    (folder / "nix-cache-info").write_text(f"StoreDir: {store}\n")
    with served(folder) as url:
        client = await built.client("client", url=url, key=built.public)
        early = await asyncio.to_thread(client.fetch, built.path)
        assert early.returncode != 0
        shutil.copytree(await built.cache(), folder, dirs_exist_ok=True)
        at_once = await asyncio.to_thread(client.fetch, built.path)
        assert at_once.returncode != 0
        _later(client, 61)
        await built.fetched_by(client)


def _later(client: Client, seconds: int) -> None:
    """Let what the client remembers of caches be that much older."""
    (memory,) = (client.folder / "cache/nix").glob("binary-cache-v*.sqlite")
    with closing(sqlite3.connect(memory)) as database, database:
        database.execute("update NARs set timestamp = timestamp - ?", (seconds,))


@pytest.fixture(scope="module")
def harmonia_bin() -> str:
    program = os.environ.get("HARMONIA_BIN")
    if not program:
        pytest.skip(
            "HARMONIA_BIN does not name Harmonia's program: clients fetch from a static "
            "cache only"
        )
    return program


async def test_harmonia_serves_a_client(harmonia_bin: str, built: Built) -> None:
    with harmonia(harmonia_bin, built) as url:
        await wait_until(
            lambda: asyncio.to_thread(answers, url), what="Harmonia's answer"
        )
        client = await built.client("client", url=url, key=built.public)
        await built.fetched_by(client)
        other = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        doubting = await built.client("doubting", url=url, key=other)
        refused = await asyncio.to_thread(doubting.fetch, built.path)
        assert refused.returncode != 0
        assert not doubting.has(built.path)


@contextmanager
def harmonia(program: str, built: Built) -> Iterator[str]:
    """Harmonia for the server's store, signing with its key."""
    folder, env = built.world.folder, built.store.env
    kept = keep_port()
    address = f"127.0.0.1:{port_of(kept)}"
    config = folder / "harmonia.toml"
    config.write_text(
        f'bind = "{address}"\nworkers = 1\n'
        f'virtual_nix_store = "{env["NIX_STORE_DIR"]}"\n'
        f'real_nix_store = "{env["NIX_STORE_DIR"]}"\n'
        f'nix_db_path = "{env["NIX_STATE_DIR"]}/db/db.sqlite"\n'
        f'sign_key_paths = ["{folder}/secret"]\n'
    )
    with (folder / "harmonia.log").open("wb") as log:
        process = subprocess.Popen(
            [program], env={**env, "CONFIG_FILE": str(config)}, stdout=log, stderr=log
        )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()
        kept.close()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/nix-cache-info", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
