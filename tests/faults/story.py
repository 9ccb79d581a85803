"""One life of a server that makes every transaction happen; it may be cut off anywhere.

Each chapter is something that people, GitHub or systemd do, and can be done again: after
the server has died it is started as usual and the chapter begins anew, as a redelivery
or an impatient user would.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.end_to_end.server import REPO, Server, World
from tests.fakes import misbehave
from tests.fakes.github_hooks import Hook
from tests.fakes.invariants import history
from tests.fakes.mailbox import Mailbox
from tests.fakes.waiting import wait_until
from tests.faults.worlds import gate, open_gate, push_payload, script

Chapter = Callable[[Server], Awaitable[None]]
GONE = (aiohttp.ClientError, OSError, AssertionError)
FORCE_STOP = 2
BROKEN = f"✗ dev of {REPO} is broken: ./ci"
FIXED = f"✓ dev of {REPO} is fixed"


@dataclass
class Story:
    """Run it once; `wanted` says how each commit must have ended then.

    Messages go to `mailbox`, which refuses them at first.
    """

    world: World
    mailbox: Mailbox
    wanted: dict[str, str] = field(default_factory=dict)
    deaths: list[str] = field(default_factory=list)

    @property
    def mark(self) -> Path:
        """The file that a server writes right before it kills itself."""
        return self.world.folder / "crashed"

    async def run(self, points: Collection[str] = (), **orders: str) -> None:
        """Live through every chapter, or until a server has died at each of `points`.

        `deaths` are those where one has; the last chapter that began is always ended.
        """
        self.world.build |= {"parallel": 1}
        self.world.github_table |= {"reconcile_every": "1h"}
        self.world.extra = f'[notify]\nurls_file = "{self._addresses}"\n'
        self._addresses.write_text(self.mailbox.url)
        self.mailbox.status = 500
        chapters: list[Chapter] = [
            self.two_commits,
            self.announced,
            self.asked_for,
            self.cancelled,
            self.retried,
            self.told_in_part,
            self.pinned,
            self.rewritten,
            self.stopped,
            self.missed,
        ]
        done = 0
        while done < len(chapters):
            left = [point for point in points if point not in self.deaths]
            if points and not left:
                chapters = chapters[: done + 1]
            orders |= {"CRASHED": str(self.mark), "CRASH_AT": ",".join(left)}
            done += await self._live(chapters[done:], orders)

    async def _live(
        self, chapters: Sequence[Chapter], orders: Mapping[str, str]
    ) -> int:
        """One process of the server; return how many chapters it lived through."""
        done = 0
        try:
            async with self.world.server(**orders) as server:
                for chapter in chapters:
                    await self._unless_gone(server, chapter)
                    done += 1
                    if server.process.returncode == 0:
                        return done
        except GONE:
            if not self.mark.exists():
                raise
        finally:
            # It may have died when all was done already.
            if self.mark.exists():
                self.deaths.append(self.mark.read_text())
                self.mark.unlink()
        return done

    async def _unless_gone(self, server: Server, chapter: Chapter) -> None:
        """The chapter; ConnectionError as soon as the server is killed meanwhile."""
        life = asyncio.create_task(server.process.wait())
        work = asyncio.ensure_future(chapter(server))
        await asyncio.wait({life, work}, return_when=asyncio.FIRST_COMPLETED)
        if life.done() and life.result() != 0:
            work.cancel()
            with suppress(asyncio.CancelledError, *GONE):
                await work
            raise ConnectionError("the server is gone")
        life.cancel()
        await work

    # The chapters

    async def two_commits(self, server: Server) -> None:
        """Two commits in one push, while GitHub has an outage."""
        good = await self._commit("good", "echo ok")
        bad = await self._commit("bad", "echo it broke; exit 3")
        self.wanted |= {good: "succeeded", bad: "failed"}
        self.world.github.misbehave(*[misbehave.server_error(500)] * 4)
        await self._push(server, [good, bad])
        await self._ended(server, good, bad)
        status, _ = await server.deliver(b'{"zen": "Be."}', event="ping", guid="ping")
        assert status == 202

    async def announced(self, server: Server) -> None:
        """The branch is broken; nobody can be told before the address is mended."""
        await wait_until(lambda: self.mailbox.refused, what="a message refused")
        mended = self._addresses.with_suffix(".mended")
        mended.write_text(f"# mended\n{self.mailbox.url}")
        mended.replace(self._addresses)
        server.send_signal(signal.SIGHUP)
        await self.everybody_knows()
        assert BROKEN in self.mailbox.titles

    async def asked_for(self, server: Server) -> None:
        """People trigger what is built already, build it again, and name nonsense."""
        good = self._sha("good")
        for body in (None, {"rev": good, "force": True}):
            status, answer = await server.post("/build/trigger", body)
            assert status in (200, 202), answer
        status, _ = await server.post("/build/trigger", {"ref": "no-such-branch"})
        assert status == 404
        await self._ended(server, good)

    async def cancelled(self, server: Server) -> None:
        long = await self._commit("long", gate(self.world.folder, "long-may-end"))
        self.wanted[long] = "cancelled"
        await self._push(server, [long])
        number = await self._begun(server, long)
        status, answer = await server.post(f"/builds/{number}/cancel")
        assert status in (202, 409), answer
        await self._ended(server, long)

    async def retried(self, server: Server) -> None:
        long = self._sha("long")
        open_gate(self.world.folder, "long-may-end")
        self.wanted[long] = "succeeded"
        number = await self._begun(server, long)
        status, answer = await server.post(f"/builds/{number}/retry")
        assert status in (202, 409), answer
        await self._ended(server, long)

    async def told_in_part(self, server: Server) -> None:
        """The payload names the head alone; git knows of the commit between."""
        between = await self._commit("between", "true")
        head = await self._commit("told", "true")
        self.wanted |= {between: "succeeded", head: "succeeded"}
        await self._push(server, [head], before=self._sha("long"))
        await self._ended(server, head, between)

    async def pinned(self, server: Server) -> None:
        number = await self._begun(server, self._sha("told"))
        for action in ("pin", "unpin"):
            status, answer = await server.post(f"/builds/{number}/{action}")
            assert status == 200, answer

    async def rewritten(self, server: Server) -> None:
        """A force push takes a commit off the branch that waits behind a running one."""
        told = self._sha("told")
        busy = await self._commit("busy", gate(self.world.folder, "busy-may-end"))
        # A server that died after the force push finds both off the branch when it looks.
        off = "skipped " if self.deaths else ""
        self.wanted[busy] = f"{off}succeeded"
        await self._push(server, [busy], before=told)
        reached = self.world.folder / "busy-may-end.reached"
        await wait_until(reached.exists, what="the build that keeps others waiting")
        waiting = await self._commit("waiting", "true")
        # After a restart in between it is the head for a moment, and built.
        self.wanted[waiting] = "skipped" if not self.deaths else "skipped succeeded"
        await self._push(server, [waiting], before=busy)
        head = await asyncio.to_thread(self._rewrite, told)
        self.wanted[head] = "succeeded"
        await self._push(server, [head], before=waiting, forced=True)
        open_gate(self.world.folder, "busy-may-end")
        await self._ended(server, busy, waiting, head)

    async def stopped(self, server: Server) -> None:
        """SIGTERM, twice, during a build: it goes back into the queue.

        Meanwhile somebody pushes, and GitHub finds nobody to tell.
        """
        last = await self._commit("last", gate(self.world.folder, "last-may-end"))
        self.wanted[last] = "succeeded"
        await self._push(server, [last], before=self._sha("rewritten"))
        await self._begun(server, last)
        for _ in range(FORCE_STOP):
            server.send_signal(signal.SIGTERM)
            # One that died and came again may have built it, and stops without a word.
            await wait_until(
                lambda: (
                    server.process.returncode is not None
                    or any("stopping" in line for line in server.raw)
                ),
                what="the stop",
            )
        assert await server.process.wait() in (0, -signal.SIGKILL)
        open_gate(self.world.folder, "last-may-end")
        missed = await self._commit("missed", "true")
        self.wanted[missed] = "succeeded"
        payload = push_payload(missed, before=self._sha("last"))
        await self.world.github.hooks.deliver(self._hook, payload, guid="missed")

    async def missed(self, server: Server) -> None:
        """The next server looks for itself, and has GitHub tell it again."""
        self._hook.url = f"{server.public}/webhook"
        missed = self._sha("missed")
        await self._ended(server, self._sha("last"), missed)

        async def told() -> bool:
            tries = self._hook.attempts
            # One that met a dead server comes again much later; its commit is built.
            return any(each.redelivery and (each.ok or self.deaths) for each in tries)

        await wait_until(told, what="the delivery that was missed")

    # The hands

    async def everybody_knows(self) -> None:
        """Wait until no message waits, and the last one says how the branch is."""
        self.mailbox.status = 200

        def known() -> bool:
            with closing(history(self.world.state_dir)) as connection:
                told = connection.execute("SELECT state FROM told").fetchone()
                wait = connection.execute(
                    "SELECT 1 FROM notices WHERE sent_at IS NULL"
                ).fetchall()
            last = self.mailbox.titles[-1:]
            state = None if told is None else told["state"]
            fits = [BROKEN] if state == "broken" else [FIXED]
            return not wait and (last == fits or (state != "broken" and not last))

        await wait_until(known, what="a last message that is true")

    @property
    def _addresses(self) -> Path:
        return self.world.folder / "notify-urls"

    @property
    def _hook(self) -> Hook:
        """GitHub's webhook for the repository; its address is where nobody listens."""
        hooks = self.world.github.hooks
        return hooks.find(REPO, "30") or hooks.add(REPO, "http://127.0.0.1:9/webhook")

    async def _commit(self, name: str, body: str) -> str:
        """The commit of this name on the default branch, made at the first call."""
        return await asyncio.to_thread(self._commit_now, name, body)

    def _commit_now(self, name: str, body: str) -> str:
        origin = self.world.origin
        made = origin.find(f"names/{name}")
        if made is not None:
            return made
        sha = origin.commit(script(body), f"the {name} commit", executable=["ci"])
        return origin.branch(f"names/{name}", sha)

    def _sha(self, name: str) -> str:
        return self.world.origin.head(f"names/{name}")

    def _rewrite(self, onto: str) -> str:
        origin = self.world.origin
        made = origin.find("names/rewritten")
        return made or origin.branch(
            "names/rewritten", origin.force(onto, {"more": "of it"})
        )

    async def _push(
        self,
        server: Server,
        shas: Sequence[str],
        *,
        before: str = "",
        forced: bool = False,
    ) -> None:
        """Deliver it, with the GUID that this push always has, until it is acknowledged.

        Afterwards nobody delivers it again, as GitHub would not.
        """
        guid = f"push-{shas[-1]}"
        if guid not in self.world.acknowledged:
            await server.push(shas, before=before, forced=forced, guid=guid)

    async def _begun(self, server: Server, sha: str) -> int:
        """Wait until the commit's build waits no more; return its number."""

        async def begun() -> int | None:
            for build in (await server.get("/builds"))["builds"]:
                if build["sha"] == sha and build["state"] != "queued":
                    return int(build["number"])
            return None

        number = await wait_until(begun, what="the begin of a build")
        assert number is not None
        return number

    async def _ended(self, server: Server, *shas: str) -> None:
        """Wait until each of these commits has ended as it is wanted to."""

        async def still_wrong() -> dict[str, str]:
            page = await server.get("/builds")
            states = {build["sha"]: build["state"] for build in page["builds"]}
            return {
                sha: f"{states.get(sha)}, not {self.wanted[sha]}"
                for sha in shas
                if states.get(sha) not in self.wanted[sha].split()
            }

        last: dict[str, str] = {}

        async def as_wanted() -> bool:
            nonlocal last
            last = await still_wrong()
            return not last

        try:
            await wait_until(as_wanted, what="the end of these builds")
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None
