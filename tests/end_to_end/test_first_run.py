"""The first day: `init`, `serve` with what it wrote, a ping, a push, a status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.end_to_end.server import REPO, Server, World
from tests.end_to_end.test_push import flake
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.github_hooks import Hook
from tests.fakes.nix_stores import NixStore
from tests.fakes.ports import keep_port, port_of
from tests.fakes.push import make_commit, make_push
from tests.fakes.repository import Origin
from tests.fakes.waiting import PATIENCE, wait_until

Row = dict[str, Any]


@dataclass
class FirstDay(World):
    """A world whose configuration `init` wrote."""

    @property
    def config(self) -> Path:
        return self.folder / "conf" / "config.toml"

    def write_configuration(self) -> Path:
        return self.config

    async def run(self, *arguments: str) -> tuple[int, str]:
        """`build-server ARGUMENTS…`: the exit code, and what it said."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments, "--config", str(self.config)),
            env=dict(self.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
        )
        async with asyncio.timeout(2 * PATIENCE):
            said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    async def init(self) -> str:
        """The same command each time; what it said."""
        public, private = self.public, self.private
        code, said = await self.run(
            *("init", "--yes", "--repo", REPO, "--state-dir", str(self.state_dir)),
            *("--token-file", str(self.folder / "token")),
            *("--webhook-url", f"http://{public}/webhook"),
            *("--public-url", f"http://{private}"),
            *("--set", f"listen.public={public}", "--set", f"listen.private={private}"),
            *("--set", f"github.api_url={self.github.url}"),
            *("--set", "github.reconcile_every=never"),
            *("--set", f"build.nix={self.nix}"),
            *("--set", f"repository.url={self.origin.url}"),
        )
        assert code == 0, said
        return said

    private: str = ""


async def _row(server: Server, key: str) -> Row:
    rows: list[Row] = (await server.get("/setup"))["rows"]
    return next(row for row in rows if row["key"] == key)


async def _until(server: Server, key: str, condition: Callable[[Row], bool]) -> Row:
    async def there() -> Row | None:
        row = await _row(server, key)
        return row if condition(row) else None

    found: Row | None = await wait_until(there, what=f"the row {key}")
    assert found is not None
    return found


async def test_from_nothing_to_a_posted_status(
    tmp_path: Path, origin: Origin, github: FakeGitHub, nix: NixStore
) -> None:
    day = FirstDay(tmp_path, origin, github, nix.env, nix.program)
    with keep_port() as public, keep_port() as private:
        day.public = f"127.0.0.1:{port_of(public)}"
        day.private = f"127.0.0.1:{port_of(private)}"
        await _first_day(day, github)


async def _first_day(day: FirstDay, github: FakeGitHub) -> None:
    tmp_path, origin = day.folder, day.origin
    (tmp_path / "token").write_text(TOKEN)
    said = await day.init()
    assert "made on GitHub" in said
    (hook,) = github.hooks.hooks
    sha = await asyncio.to_thread(origin.commit, flake())
    async with day.server() as server:
        assert (await server.get("/setup"))["first_run"]
        assert (await _row(server, "webhook"))["seen"] == "waiting for a ping…"
        await _wrong_secret_and_back(day, server, hook)
        await _wrong_form_and_back(day, server, hook)
        await _pings_by_the_button(server)
        await _pushes(day, server, hook, sha)
        await _doctor_agrees(day, server)
        secret = (tmp_path / "conf/secrets/webhook-secret").read_text().strip()
        for path in ("/setup.json", "/setup.txt", "/setup"):
            page = await server.text(path)
            assert secret.encode() not in page
            assert TOKEN.encode() not in page
        assert await server.stop() == 0


async def _wrong_secret_and_back(day: FirstDay, server: Server, hook: Hook) -> None:
    right, hook.secret = hook.secret, b"somebody else's secret"
    status, answer = await server.post("/setup/ping")
    assert (status, answer["asked"]) == (200, True)
    row = await _until(server, "webhook", lambda row: row["state"] == "wrong")
    assert (
        f"from hook {hook.id} came, signature wrong: the secret differs" in row["seen"]
    )
    assert str(day.folder / "conf/secrets/webhook-secret") in row["fix"]
    assert "it has the secret now" in await day.init()
    assert hook.secret == right
    row = await _until(server, "webhook", lambda row: row["state"] == "well")
    assert row["seen"].endswith(f"from hook {hook.id}, signature ok")


async def _wrong_form_and_back(day: FirstDay, server: Server, hook: Hook) -> None:
    hook.content_type = "form"
    await server.post("/setup/ping")
    row = await _until(server, "webhook", lambda row: row["state"] == "wrong")
    assert "came as application/x-www-form-urlencoded" in row["seen"]
    assert "application/json" in row["fix"]
    assert "it sends application/json now" in await day.init()
    await _until(server, "webhook", lambda row: row["state"] == "well")


async def _pings_by_the_button(server: Server) -> None:
    """A browser's form, from the page itself; an open page hears what came of it."""
    page = {"Accept": "text/html", "Origin": server.private}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with server.session.post(
        f"{server.private}/setup/ping", data=b"", headers={**page, **form}
    ) as response:
        assert response.status == 200
        assert response.url.path == "/setup"
        assert "GitHub was asked to ping hook" in await response.text()


async def _pushes(day: FirstDay, server: Server, hook: Hook, sha: str) -> None:
    hooks = day.github.hooks
    elsewhere = make_push([make_commit(sha, "elsewhere")], branch="main", repo=REPO)
    assert (await hooks.deliver(hook, elsewhere)).code == 202
    row = await _row(server, "push")
    assert row["state"] == "waiting"
    assert "push to main: branch main of octo-org/hello is not built" in row["notes"][0]
    push = make_push([make_commit(sha, "first")], created=True, repo=REPO)
    assert (await hooks.deliver(hook, push)).code == 202
    assert (await server.finished(1))["state"] == "succeeded"
    await day.github.wait_for(sha, "success")
    assert (await _row(server, "push"))["state"] == "well"
    row = await _until(server, "status", lambda row: "success" in row["seen"])
    assert row["seen"].startswith("success of build #1 posted")
    assert not (await server.get("/setup"))["first_run"]


async def _doctor_agrees(day: FirstDay, server: Server) -> None:
    """`doctor` and the page say the same of the same machine, sentence by sentence."""

    async def examined() -> list[Row]:
        setup = await server.get("/setup")
        return [check for check in setup["checks"] if check["by"] == "doctor"]

    checks = await wait_until(examined, what="the doctor's checks")
    _, said = await day.run("doctor")
    lines = said.splitlines()
    marked = [line for line in lines if line[:2] in ("✓ ", "✗ ")]
    assert len(marked) == len(checks)
    for line, check in zip(marked, checks, strict=True):
        mark = "✓" if check["ok"] else "✗"
        assert line.startswith(f"{mark} {check['name']}"), (line, check)
    fixes = [line.partition("→ ")[2] for line in lines if line.strip().startswith("→")]
    assert fixes == [check["fix"] for check in checks if check["fix"]]
