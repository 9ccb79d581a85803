"""The real server as a process of its own, and the world around it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ci.app import instance_mark
from tests.end_to_end import patient
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.push import GITHUB_ID, SECRET, encode, headers, make_commit, make_push
from tests.fakes.repository import Origin
from tests.fakes.waiting import PATIENCE, wait_until

REPO = "octo-org/hello"
FINAL = {"succeeded", "failed", "error", "cancelled", "skipped"}


@dataclass
class World:
    """A folder with a configuration, an origin to fetch from, and GitHub's stand-in."""

    folder: Path
    origin: Origin
    github: FakeGitHub
    environ: Mapping[str, str]
    nix: str
    repository: dict[str, Any] = field(default_factory=dict)
    build: dict[str, Any] = field(default_factory=dict)
    # The tests of reconciling look for commits; the others say when there is one.
    github_table: dict[str, Any] = field(
        default_factory=lambda: {"reconcile_every": "never"}
    )
    extra: str = ""
    # Where the webhook is; GitHub must find it there again after a restart. And where
    # clients are answered.
    public: str = "127.0.0.1:0"
    private: str = "127.0.0.1:0"
    secret: bytes = SECRET
    # What runs it, in front of it: a tracer.
    wrapper: Sequence[str] = ()
    # The server's program, as arguments of Python; GUIDs that were answered 202.
    program: Sequence[str] = patient.PROGRAM
    acknowledged: set[str] = field(default_factory=set)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def write_configuration(self) -> Path:
        """Write config.toml and the secret files; return the file's path."""
        (self.folder / "webhook-secret").write_bytes(self.secret)
        (self.folder / "token").write_text(TOKEN)
        build = {"nix": self.nix, **self.build}
        repository = {"name": REPO, "url": self.origin.url, **self.repository}
        path = self.folder / "config.toml"
        path.write_text(
            f"""\
state_dir = "{self.state_dir}"
[listen]
public = "{self.public}"
private = "{self.private}"
[github]
api_url = "{self.github.url}"
webhook_secret_file = "{self.folder}/webhook-secret"
token_file = "{self.folder}/token"
{_toml(self.github_table)}
[build]
{_toml(build)}
{self.extra}
[[repository]]
{_toml(repository)}
"""
        )
        return path

    def command(self, *arguments: str) -> list[str]:
        """The argv of `build-server ARGUMENTS…` as this world runs it."""
        return [*self.wrapper, sys.executable, *self.program, *arguments]

    @asynccontextmanager
    async def server(self, **extra_environ: str) -> AsyncIterator[Server]:
        """The server, ready; killed at the end unless it was stopped before."""
        config = await asyncio.to_thread(self.write_configuration)
        process = await asyncio.create_subprocess_exec(
            *self.command("serve", "--config", str(config)),
            env={**self.environ, "BUILD_SERVER_TEST": "1", **extra_environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.folder,
        )
        server = Server(self, process)
        reader = asyncio.create_task(server.listen())
        try:
            await server.ready()
            async with aiohttp.ClientSession() as session:
                server.session = session
                yield server
        finally:
            server.send_signal(signal.SIGKILL)
            await process.wait()
            await reader


def _toml(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())


class Server:
    """One run of the server; `lines` is its own log, parsed."""

    session: aiohttp.ClientSession

    def __init__(self, world: World, process: asyncio.subprocess.Process) -> None:
        self.world = world
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.raw: list[str] = []
        self._ready = asyncio.Event()
        self.public = ""
        self.private = ""

    async def listen(self) -> None:
        """Read the server's own log to its end."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.raw.append(line.decode(errors="replace").rstrip())
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                continue
            self._note_addresses(self.lines[-1].get("message", ""))
        self._ready.set()

    def _note_addresses(self, message: str) -> None:
        if " is ready: " not in message:
            return
        for part in message.partition(" is ready: ")[2].split(", "):
            name, _, url = part.partition(" ")
            setattr(self, name, url)
        self._ready.set()

    async def ready(self) -> None:
        async with asyncio.timeout(2 * PATIENCE):
            await self._ready.wait()
        assert self.private, "the server did not start:\n" + "\n".join(self.raw)

    async def push(
        self,
        shas: str | Sequence[str],
        *,
        before: str = "",
        branch: str = "dev",
        guid: str | None = None,
        forced: bool = False,
    ) -> dict[str, Any]:
        """Tell the server of pushed commits, oldest first; return its answer."""
        listed = [shas] if isinstance(shas, str) else list(shas)
        payload = make_push(
            [make_commit(sha, f"commit {sha[:7]}") for sha in listed],
            before=before or None,
            branch=branch,
            forced=forced,
            created=not before,
            repo=REPO,
            github_id=GITHUB_ID,
        )
        status, answer = await self.deliver(encode(payload), guid=guid)
        assert status == 202, answer
        return answer

    async def deliver(
        self, body: bytes, *, guid: str | None = None, event: str = "push"
    ) -> tuple[int, dict[str, Any]]:
        """POST a signed delivery; return (status, answer)."""
        signed = headers(body, self.world.secret, guid=guid, event=event)
        async with self.session.post(
            f"{self.public}/webhook", data=body, headers=signed
        ) as response:
            answer: dict[str, Any] = await response.json()
            if response.status == 202:
                self.world.acknowledged.add(signed["X-GitHub-Delivery"])
            return response.status, answer

    async def get(self, path: str) -> Any:
        """GET JSON from the private side."""
        async with self.session.get(
            self.private + path, headers={"Accept": "application/json"}
        ) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def text(self, path: str) -> bytes:
        """GET bytes from the private side."""
        async with self.session.get(self.private + path) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def post(
        self, path: str, body: object | None = None
    ) -> tuple[int, dict[str, Any]]:
        """POST JSON to the private side; return (status, answer)."""
        async with self.session.post(self.private + path, json=body) as response:
            answer: dict[str, Any] = await response.json()
            return response.status, answer

    async def build(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = await self.get(f"/builds/{number}")
        return found

    async def finished(
        self,
        number: int,
        timeout: float = 2 * PATIENCE,  # noqa: ASYNC109
    ) -> dict[str, Any]:
        """Wait until the build has ended; return it."""

        async def ended() -> dict[str, Any] | None:
            build = await self.build(number)
            return build if build["state"] in FINAL else None

        return await _wait(ended, timeout, f"the end of build {number}")

    async def until_said(self, number: int, words: bytes) -> None:
        """Wait until the running build has written `words` to its log.

        Only then is it surely in the server's hand: its row says so a moment earlier.
        """

        async def said() -> bool:
            if (await self.build(number))["state"] != "running":
                return False
            return words in await self.text(f"/builds/{number}/log")

        await wait_until(said, what=f"{words!r} in the log of build {number}")

    async def until_state(self, number: int, state: str) -> dict[str, Any]:
        """Wait until the build is in `state`."""

        async def there() -> dict[str, Any] | None:
            build = await self.build(number)
            return build if build["state"] == state else None

        return await _wait(there, PATIENCE, f"build {number} {state}")

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended.

        asyncio's own way may reap a process that has just ended, and who waits for it is
        then told 255 (https://github.com/python/cpython/issues/87744).
        """
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code."""
        self.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the server that was told to; return the exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        await self.process.wait()


async def _wait(
    condition: Callable[[], Awaitable[dict[str, Any] | None]],
    timeout: float,  # noqa: ASYNC109
    what: str,
) -> dict[str, Any]:
    found: dict[str, Any] | None = await wait_until(condition, timeout, what=what)
    assert found is not None
    return found


async def marked_processes(state_dir: Path) -> list[int]:
    """Processes that carry this server's mark, alive now."""
    return await asyncio.to_thread(_marked, state_dir)


def _marked(state_dir: Path) -> list[int]:
    wanted = f"BUILD_SERVER_INSTANCE={instance_mark(state_dir)}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found
