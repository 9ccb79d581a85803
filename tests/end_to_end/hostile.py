"""Secrets wherever a hostile commit could look for one, and who watches that none is seen."""

from __future__ import annotations

import asyncio
import re
import secrets
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ci.adapters.process.table import read_table
from tests.end_to_end.server import Server, World
from tests.fakes.github import TOKEN
from tests.fakes.push import encode, headers, make_commit, make_push
from tests.fakes.repository import Origin

PRIVATE = "octo-org/private"
PRIVATE_ID = 2_000_001
# Before an exec a child still shows the server's own environment.
SAMPLE_SECONDS = 0.002
# All that programs of ours may be told; NIX_ and GIT_ are settings, looked at by value.
VARIABLES = re.compile(
    r"PATH|HOME|USER|LANG|LC_ALL|CI|PWD|OLDPWD|SHLVL|_|XDG_CACHE_HOME|LD_BIND_NOW"
    r"|BUILD_SERVER_(?:INSTANCE|SPAWN)|NIX_\w+|GIT_\w+|(?:https?|all|no)_proxy"
)
PLACES = (
    *("/builds?limit=100", "/build/status", "/build/logs?lines=10000"),
    *("/health", "/metrics", "/openapi.json"),
)


def canary(place: str) -> str:
    return f"canary-{place}-{secrets.token_hex(8)}"


@dataclass
class House:
    """A world with a private repository beside the hostile one, and secrets in it.

    `canaries` are the secrets by where they lie, `paths` files that hold one.
    """

    world: World
    origin: Origin
    canaries: dict[str, str]
    paths: list[Path]
    environ: Mapping[str, str]
    private_builds: int = 0
    _before: str = ""

    @classmethod
    def furnish(cls, world: World, *, private: Mapping[str, object]) -> House:
        """`private` are further keys of the private repository's table."""
        names = ("webhook", "credential", "home", "environment", "nix", "private")
        canaries = {name: canary(name) for name in (*names, "state", "cache")}
        canaries["token"] = TOKEN
        world.secret = canaries["webhook"].encode()
        files = {
            "credentials/api-token": canaries["credential"],
            "home/.netrc": f"machine x password {canaries['home']}",
            "home/.config/nix/nix.conf": f"access-tokens = x={canaries['home']}",
            "state/notes": canaries["state"],
            "state/token": canaries["state"],
            "state/cache/1/nix/secret": canaries["cache"],
        }
        for name, content in files.items():
            path = world.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        origin = Origin(world.folder / "private.git")
        table = {"name": PRIVATE, "url": origin.url, **private}
        lines = "\n".join(f"{key} = {_toml(value)}" for key, value in table.items())
        world.extra += f"\n[[repository]]\n{lines}\n"
        state = world.state_dir
        paths = [*(world.folder / name for name in files), state / "history.db"]
        paths += [world.folder / "webhook-secret", world.folder / "token"]
        paths += [state / "mirrors/1.git/HEAD", state / "mirrors/1.git/config"]
        environ = {
            "CREDENTIALS_DIRECTORY": str(world.folder / "credentials"),
            "HOME": str(world.folder / "home"),
            "SERVER_SECRET": canaries["environment"],
            "NIX_CONFIG": f"access-tokens = example.org={canaries['nix']}",
        }
        return cls(world, origin, canaries, paths, environ)

    @asynccontextmanager
    async def server(self) -> AsyncIterator[tuple[Server, Watch]]:
        """The server, and a watch on all that runs below it."""
        async with self.world.server(**self.environ) as server:
            watch = Watch(server.process.pid, self.canaries)
            thread = threading.Thread(target=watch.run)
            thread.start()
            try:
                yield server, watch
            finally:
                watch.over.set()
                await asyncio.to_thread(thread.join)

    async def push_private(
        self, server: Server, files: Mapping[str, str | bytes | None]
    ) -> int:
        """A good commit of the private repository; returns the number of its build."""
        text = {**files, "private.txt": f"{self.canaries['private']}\n"}
        sha = await asyncio.to_thread(
            self.origin.commit, text, executable=["ci"], branch="dev"
        )
        commit = make_commit(sha, "a private matter")
        payload = make_push(
            [commit],
            before=self._before or None,
            created=not self._before,
            branch="dev",
            repo=PRIVATE,
            github_id=PRIVATE_ID,
        )
        self._before = sha
        body = encode(payload)
        signed = headers(body, self.world.secret)
        url = f"{server.public}/webhook"
        async with server.session.post(url, data=body, headers=signed) as response:
            answer = await response.json()
        assert response.status == 202, answer
        number: int = answer["builds"][0]
        return number

    async def told(self, server: Server) -> dict[str, bytes]:
        """Everything the server says to whoever asks, by path."""
        builds = (await server.get("/builds?limit=100"))["builds"]
        numbers = [build["number"] for build in builds]
        pages = [f"/builds/{number}" for number in numbers]
        logs = [f"/builds/{number}/log" for number in numbers]
        found = {}
        for path in (*PLACES, *pages, *logs):
            found[path] = await server.text(path)
        found["the server's own log"] = "\n".join(server.raw).encode()
        statuses = [str(status) for status in self.world.github.taken]
        found["GitHub"] = "\n".join(statuses).encode()
        return found

    def leaks(self, texts: Mapping[str, bytes]) -> Iterator[str]:
        """Which canary is seen where."""
        for where, text in texts.items():
            for place, value in self.canaries.items():
                if value.encode() in text:
                    yield f"the secret of {place} is in {where}"

    def leaks_on_disk(self, *more: Path) -> Iterator[str]:
        """Canaries in the database, the logs and `more` (a store), in whatever file."""
        state = self.world.state_dir
        database = [str(path) for path in state.glob("history.db*")]
        places = [*database, str(state / "logs"), *map(str, more)]
        for place, value in self.canaries.items():
            argv = ["grep", "-rlaF", "--", value, *places]
            done = subprocess.run(argv, capture_output=True, text=True)
            for name in done.stdout.splitlines():
                yield f"the secret of {place} is in {name}"


@dataclass
class Watch:
    """Looks at every process below `pid`, over and over, until it is `over`."""

    pid: int
    canaries: Mapping[str, str]
    over: threading.Event = field(default_factory=threading.Event)
    programs: set[bytes] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)

    def run(self) -> None:
        own = _read(self.pid, "cmdline")
        while not self.over.wait(SAMPLE_SECONDS):
            for pid in self._below():
                arguments = _read(pid, "cmdline")
                environ = _read(pid, "environ")
                if arguments not in (b"", own):
                    self._look(arguments, environ)

    def _below(self) -> set[int]:
        table = read_table()
        found = {self.pid}
        while True:
            more = {row.pid for row in table.values() if row.parent in found} - found
            if not more:
                return found - {self.pid}
            found |= more

    def _look(self, arguments: bytes, environ: bytes) -> None:
        words = arguments.split(b"\0")
        program = words[0].rpartition(b"/")[2]
        self.programs.add(program)
        variables = dict(line.partition(b"=")[::2] for line in environ.split(b"\0"))
        # What a derivation says of itself, in Nix's own sandbox.
        if b"NIX_BUILD_TOP" in variables:
            variables = {}
        for name in map(bytes.decode, variables):
            if name and not VARIABLES.fullmatch(name):
                self.wrong.add(f"{program!r} is told {name}")
        for place, value in self.canaries.items():
            if value.encode() in arguments:
                self.wrong.add(f"the secret of {place} is an argument of {program!r}")
            if value.encode() in environ:
                self.wrong.add(
                    f"the secret of {place} is in the environment of {program!r}"
                )


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().rstrip(b"\0")
    except OSError:
        return b""


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    assert isinstance(value, list)
    return f"[{', '.join(map(_toml, value))}]"
