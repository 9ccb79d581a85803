"""Drives the real server and its world by the rules of the machine, and watches it.

Every method is one thing that happens to a server: somebody pushes, GitHub stumbles, the
host sleeps, the process is killed. What follows from it is kept in the model (refs.py).
A thing that makes no sense at the moment (to thaw what is not frozen) does nothing, so
that any sequence of them can be run.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from ci.models import BuildState
from tests.end_to_end.server import REPO, Server, World
from tests.fakes import misbehave
from tests.fakes.github import FakeGitHub
from tests.fakes.invariants import attempts, history, unrecorded
from tests.fakes.misbehave import Reply
from tests.fakes.push import GITHUB_ID, ZERO, encode, make_commit, make_push, new_guid
from tests.fakes.repository import Origin
from tests.fakes.waiting import PATIENCE, wait_until
from tests.model.refs import Commit, Push, Remotes, Script
from tests.model.remote import Network

OTHER = "octo-org/other"
HURRIED = Path(__file__).with_name("hurried.py")
PARALLEL = 2
# Where a push may go; the third is a branch that nobody builds.
PLACES = ((REPO, "dev"), (REPO, "release"), (REPO, "topic"), (OTHER, "dev"))
WATCHED = {REPO: ("dev", "release"), OTHER: ("dev",)}
IDS = {REPO: GITHUB_ID, OTHER: GITHUB_ID + 1}
PUSHED = ("told", "told", "told", "missed", "held")

FAULTS: dict[str, Reply] = {
    "500": misbehave.server_error(500),
    "502": misbehave.server_error(502),
    # That silence is kept is tested elsewhere: here a restarted server forgets it.
    "limit": replace(misbehave.secondary_limit(1), silence=0.0),
    "reset": misbehave.reset(accept=False),
    "lost reply": misbehave.reset(accept=True),
    "page": misbehave.html(),
    "half": misbehave.truncated(),
    "slow": misbehave.slow(0.3),
    "not found": misbehave.not_found(),
}

SCRIPTS = {
    Script.PASSES: "",
    Script.FAILS: "exit 3",
    Script.DAWDLES: "for i in 1 2 3 4; do sleep 0.15; done",
    Script.KILLS_ITSELF: "kill -9 $$",
}
# While a command runs it holds its commit's lock and one of as many as there are slots,
# and so do children that outlive it: a second one for the same commit, one too many, or
# a survivor shows in the file `overlaps`. The dying get a moment.
COMMAND = """\
#!/bin/sh
if test -d {locks}; then
    exec 9>{locks}/{name}
    flock -w 0.5 9 || echo "{name} runs twice" >>{locks}/overlaps
    exec 8>{locks}/slot-1
    flock -n 8 || {{ exec 8>{locks}/slot-2; flock -w 0.5 8; }} ||
        echo "{name} is one too many" >>{locks}/overlaps
fi
cat output
{script}
"""


@dataclass(frozen=True)
class Seen:
    """A build as it was when last looked at."""

    repo: str
    sha: str
    state: str


class Driver:
    """Make one in a fresh folder, `open` it, do things, `close` it."""

    def __init__(
        self, folder: Path, *, sandbox: bool, reconcile: bool, github: FakeGitHub
    ) -> None:
        self.folder = folder
        self.network = Network(folder)
        self.origins = {
            REPO: Origin(folder / "hello.git"),
            OTHER: Origin(folder / "other.git"),
        }
        for origin in self.origins.values():
            # GitHub does not let the default branch be deleted.
            origin.commit({"README": "hello"}, branch="main")
        self.github = github
        self.reconcile = reconcile
        self.world = self._world(sandbox)
        self.model = Remotes(WATCHED)
        self.server: Server | None = None
        self.frozen = False
        self.log: list[str] = []
        self.github_up = True
        self.most_files = 0
        self.kills = 0
        self._starts = AsyncExitStack()
        self._made = 0
        self._seen: dict[int, Seen] = {}

    def _world(self, sandbox: bool) -> World:
        (self.folder / "locks").mkdir()
        path = f"{self.network.programs}:{os.environ['PATH']}"
        environ = {"PATH": path, "HOME": str(self.folder)}
        world = World(self.folder, self.origins[REPO], self.github, environ, "nix")
        world.program = (str(HURRIED),)
        world.build = {"parallel": PARALLEL, "sandbox": sandbox}
        world.github_table = {"reconcile_every": "1s" if self.reconcile else "never"}
        world.repository = {
            "url": self.network.url(self.origins[REPO].path),
            "branches": list(WATCHED[REPO]),
            "builder": "command",
            "command": ["./ci"],
        }
        world.extra = f"""\
[[repository]]
name = "{OTHER}"
url = "{self.network.url(self.origins[OTHER].path)}"
branches = ["dev"]
builder = "command"
command = ["./ci"]
"""
        return world

    async def open(self) -> None:
        await self.github.start()
        await self.start()

    async def close(self) -> None:
        """Leave no process and no listener."""
        if self.server is not None:
            self._signal(signal.SIGCONT)
        await self._down()
        await self.github.close()

    # The server's process

    async def start(self) -> None:
        """Start the server; does nothing when it runs."""
        if self.server is not None:
            return
        self.server = await self._starts.enter_async_context(self.world.server())
        assert (await self.server.get("/health"))["status"] in {"healthy", "degraded"}

    async def kill(self) -> None:
        """`kill -9`."""
        if self.server is not None:
            self.kills += 1
            await self.server.kill()
            await self._down()

    async def stop(self, signals: int) -> None:
        """SIGTERM, so many times; it must end in time and say good-bye."""
        if self.server is None:
            return
        await self.thaw()
        for _ in range(signals - 1):
            self._signal(signal.SIGTERM)
        assert await self.server.stop() == 0, self.server.raw[-20:]
        await self._down()

    async def _down(self) -> None:
        await self._starts.aclose()
        if self.server is not None:
            self.log += self.server.raw
        self.server, self.frozen = None, False

    async def freeze(self) -> None:
        """What the server sees of a host that sleeps: time that it does not have."""
        if self.server is not None:
            self._signal(signal.SIGSTOP)
            self.frozen = True

    async def thaw(self) -> None:
        if self.frozen:
            self._signal(signal.SIGCONT)
            self.frozen = False

    def _signal(self, number: int) -> None:
        assert self.server is not None
        self.server.send_signal(number)

    @property
    def awake(self) -> Server | None:
        """The server, if it can answer."""
        return None if self.frozen else self.server

    # The remotes

    async def push(self, place: int, scripts: Sequence[Script], told: str) -> None:
        """Push new commits on top of a branch, which is made when there is none."""
        repo, branch = PLACES[place]
        before = self.model.heads.get((repo, branch))
        if before is None:
            self.model.rewritten(repo, branch)
        commits = await self._commit(repo, branch, before, scripts)
        self.model.grow(repo, branch, before, commits)
        await self._tell(repo, branch, before, told)

    async def rewrite(
        self, place: int, back: int, scripts: Sequence[Script], told: str
    ) -> None:
        """Throw away the newest `back` commits of a branch and force others there."""
        repo, branch = PLACES[place]
        before = self.model.heads.get((repo, branch))
        chain = list(self.model.chain(before))
        if len(chain) <= back:
            return
        await asyncio.to_thread(self.origins[repo].branch, branch, chain[back])
        self.model.rewritten(repo, branch)
        commits = await self._commit(repo, branch, chain[back], scripts)
        self.model.grow(repo, branch, chain[back], commits)
        await self._tell(repo, branch, before, told)

    async def point(self, place: int, pick: int, told: str) -> None:
        """Make a branch at a commit that exists, or move it there."""
        repo, branch = PLACES[place]
        known = [sha for sha, c in self.model.commits.items() if c.repo == repo]
        before = self.model.heads.get((repo, branch))
        if not known or before == (sha := known[pick % len(known)]):
            return
        await asyncio.to_thread(self.origins[repo].branch, branch, sha)
        self.model.rewritten(repo, branch)
        self.model.move(repo, branch, sha)
        await self._tell(repo, branch, before, told)

    async def delete(self, place: int, told: str) -> None:
        repo, branch = PLACES[place]
        before = self.model.heads.get((repo, branch))
        if before is None:
            return
        await asyncio.to_thread(self.origins[repo].delete, branch)
        self.model.rewritten(repo, branch)
        self.model.move(repo, branch, None)
        await self._tell(repo, branch, before, told)

    async def _commit(
        self, repo: str, branch: str, parent: str | None, scripts: Sequence[Script]
    ) -> list[Commit]:
        made = []
        for script in scripts:
            self._made += 1
            name = f"{repo.partition('/')[2]}-{self._made}"
            output = _output(self._made)
            locks = shlex.quote(str(self.folder / "locks"))
            body = COMMAND.format(locks=locks, name=name, script=SCRIPTS[script])
            sha = await asyncio.to_thread(
                self.origins[repo].commit,
                {"ci": body, "output": output},
                f"{name} {script}",
                branch=branch,
                executable=["ci"],
            )
            line = self.model.line(repo, branch)
            made.append(Commit(sha, repo, parent, script, output, line))
            parent = sha
        return made

    # What GitHub tells

    async def _tell(
        self, repo: str, branch: str, before: str | None, told: str
    ) -> None:
        """Make the delivery for a move that has just happened, and perhaps send it."""
        after = self.model.heads.get((repo, branch))
        added = self.model.added(before, after) if after else []
        forced = (
            before is not None
            and after is not None
            and before not in self.model.chain(after)
        )
        payload = make_push(
            [make_commit(sha) for sha in added],
            repo=repo,
            github_id=IDS[repo],
            branch=branch,
            before=before or ZERO,
            after=after or ZERO,
            created=before is None,
            deleted=after is None,
            forced=forced,
            head_commit=make_commit(after) if after else None,
        )
        shas = tuple(dict.fromkeys([*added, *([after] if after else [])]))
        push = Push(new_guid(), encode(payload), repo, branch, shas, told == "held")
        self.model.pushes.append(push)
        if told == "told":
            await self._deliver(push, push.guid)

    async def _deliver(self, push: Push, guid: str) -> None:
        """Send a delivery; a server that is not there is GitHub's failed delivery."""
        push.held = False
        if self.server is None:
            return
        answer: dict[str, Any] | None = None
        what: object = None
        try:
            async with asyncio.timeout(0.2 if self.frozen else PATIENCE):
                what, answer = await self.server.deliver(push.body, guid=guid)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            what = repr(error)
        if answer is None or what != 202:
            assert self.frozen, f"{guid}: {what}, {answer}\n{self._tail()}"
            return
        built = push.branch in WATCHED[push.repo] and bool(push.shas)
        assert answer["accepted"] == built, answer
        assert built or answer["reason"], answer
        self.model.acknowledge(push)

    async def again(self, pick: int) -> None:
        """GitHub delivers a push again, under the GUID that it had."""
        if self.model.pushes:
            push = self.model.pushes[pick % len(self.model.pushes)]
            await self._deliver(push, push.guid)

    async def replay(self, pick: int) -> None:
        """Somebody sends the body of an old push under a new GUID."""
        if self.model.pushes:
            push = self.model.pushes[pick % len(self.model.pushes)]
            await self._deliver(push, new_guid())

    async def late(self, pick: int) -> None:
        """A delivery that was held up on its way arrives."""
        held = [push for push in self.model.pushes if push.held]
        if held:
            push = held[pick % len(held)]
            await self._deliver(push, push.guid)

    # The network, and time

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def connect(self, mode: str) -> None:
        """The way to the remotes is `up`, `down`, or breaks in mid-pack (`cut`)."""
        await asyncio.to_thread(self.network.say, mode)

    async def stumble(self, fault: str, times: int) -> None:
        """GitHub's next answers are wrong."""
        self.github.misbehave(*[FAULTS[fault]] * times)

    async def outage(self, up: bool) -> None:
        """GitHub goes away, or comes back."""
        if up and not self.github_up:
            await self.github.start()
        elif not up and self.github_up:
            await self.github.stop()
        self.github_up = up

    # What people ask

    async def cancel(self, pick: int) -> None:
        found = await self._pick(pick)
        if found is None:
            return
        server, number, commit = found
        commit.cancelled = True
        status, answer = await server.post(f"/builds/{number}/cancel")
        assert status in {202, 409}, status
        if answer.get("state") == BuildState.CANCELLED:
            commit.stays = BuildState.CANCELLED

    async def retry(self, pick: int) -> None:
        found = await self._pick(pick)
        if found is None:
            return
        server, number, commit = found
        commit.touched, commit.stays = True, None
        status, answer = await server.post(f"/builds/{number}/retry")
        assert status in {202, 409}, status
        if status == 202 and answer.get("number") == number:
            commit.cancelled = commit.cancelled and self._cancel_is_open(number)
            commit.wanted = True

    def _cancel_is_open(self, number: int) -> bool:
        """Whether a cancel waits to be acted on: then it comes after what came now."""
        with closing(history(self.world.state_dir)) as connection:
            query = "SELECT 1 FROM requests WHERE build = ? AND answered_at IS NULL"
            return connection.execute(query, (number,)).fetchone() is not None

    async def _pick(self, pick: int) -> tuple[Server, int, Commit] | None:
        """A build that exists, and a server that can be asked about it."""
        self.observe()
        if self.awake is None or not self._seen:
            return None
        number = sorted(self._seen)[pick % len(self._seen)]
        return self.awake, number, self.model.commits[self._seen[number].sha]

    async def trigger(self, place: int, pick: int | None, force: bool) -> None:
        """Ask for the head of a branch, or for one commit of its repository."""
        if self.awake is None:
            return
        repo, branch = PLACES[place]
        known = [sha for sha, c in self.model.commits.items() if c.repo == repo]
        asked: dict[str, Any] = {"repo": repo, "force": force}
        if pick is None:
            wanted = self.model.heads.get((repo, branch))
            asked["ref"] = branch
        elif known:
            wanted = asked["rev"] = known[pick % len(known)]
        else:
            return
        commit = self.model.commits.get(wanted or "")
        if commit is not None:
            commit.touched, commit.stays = True, None
        status, answer = await self.awake.post("/build/trigger", asked)
        if status not in {200, 202}:
            assert self.network_down or wanted is None, (status, answer)
            assert status in {404, 502, 503}, (status, answer)
        elif answer["build"] is not None:
            assert commit is not None
            assert answer["build"]["sha"] == commit.sha, answer
            commit.wanted = True
            if answer["status"] == "triggered":
                commit.cancelled = commit.cancelled and self._cancel_is_open(
                    answer["build"]["number"]
                )

    @property
    def network_down(self) -> bool:
        return self.network.mode != "up"

    # Watching

    def observe(self) -> None:
        """What must hold at any moment, whatever is going on."""
        if not (self.world.state_dir / "history.db").exists():
            return
        with closing(history(self.world.state_dir)) as connection:
            connection.execute("BEGIN")
            wrong = [
                *unrecorded(connection, self.world.acknowledged),
                *attempts(connection),
            ]
            rows = connection.execute(
                "SELECT b.number, r.name AS repo, b.sha, b.state FROM builds b "
                "JOIN repositories r ON r.id = b.repository_id"
            )
            now = {
                row["number"]: Seen(row["repo"], row["sha"], row["state"])
                for row in rows
            }
        wrong += self._history_changed(now)
        self._seen = now
        if self.awake is not None:
            files = len(os.listdir(f"/proc/{self.awake.process.pid}/fd"))
            self.most_files = max(self.most_files, files)
        assert not wrong, "\n".join(wrong)

    async def built(self) -> None:
        """Wait until every build that there is has ended."""

        def ended() -> bool:
            self.observe()
            return all(BuildState(seen.state).final for seen in self._seen.values())

        await wait_until(ended, what="the end of every build")

    def _history_changed(self, now: dict[int, Seen]) -> list[str]:
        """Numbers stay, new ones are higher, and nothing that ended begins again."""
        wrong, highest = [], max(self._seen, default=0)
        for number, was in self._seen.items():
            seen = now.get(number)
            if seen is None or (seen.repo, seen.sha) != (was.repo, was.sha):
                wrong.append(f"build #{number} was {was}, is {seen}")
                continue
            commit = self.model.commits[seen.sha]
            ended = BuildState(was.state).final and was.state != seen.state
            skipped = was.state == BuildState.SKIPPED and commit.exposed
            if ended and not commit.touched and not skipped:
                wrong.append(f"build #{number} had ended: {was.state}, is {seen.state}")
        for number in now.keys() - self._seen.keys():
            if number <= highest:
                wrong.append(f"build #{number} came after #{highest}")
        return wrong

    def _tail(self) -> str:
        lines = self.server.raw if self.server is not None else self.log
        return "\n".join(lines[-40:])


def _output(seed: int) -> bytes:
    """What a script writes: lines, and now and then what is no text at all."""
    odd = b"\x00\xff\xfe\x1b[31m\r" * (seed % 3) + b"x" * (seed % 5 * 30_000)
    return b"".join(b"line %d\n" % n for n in range(seed % 7)) + odd
