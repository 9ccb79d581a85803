"""The real server asks at its own public address: name, TLS, Funnel, and itself behind."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ci.intake.probe import EVENT, question
from tests.end_to_end.server import Server, World
from tests.fakes.funnel import Authority, Funnel, PublicDns
from tests.fakes.push import headers
from tests.fakes.waiting import wait_until

NAME = "builder.example-tailnet.ts.net"
CONSTANT_401 = (
    b'{"error": "the signature is missing or wrong", "status": 401, "detail": {}}\n'
)
UNREACHABLE, NOT_US = "not reachable", "reachable, but not us"


@dataclass
class Outside:
    """What stands between the internet and the server."""

    authority: Authority
    funnel: Funnel
    dns: PublicDns

    def configure(self, world: World, name: str = NAME) -> None:
        world.github_table = {
            "reconcile_every": "500ms",
            "public_webhook_url": f"https://{name}:{self.funnel.port}/webhook",
            "public_resolvers": [self.dns.address],
        }

    @asynccontextmanager
    async def served(self, world: World) -> AsyncIterator[Server]:
        """The server behind the Funnel, trusting its authority."""
        async with world.server(SSL_CERT_FILE=str(self.authority.file)) as server:
            self.lead_to(server.public)
            yield server

    def lead_to(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self.funnel.target = (host, int(port))


@pytest.fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    authority = await asyncio.to_thread(Authority, tmp_path)
    context = await asyncio.to_thread(authority.context, NAME)
    async with Funnel(context) as funnel, PublicDns({NAME: ["127.0.0.1"]}) as dns:
        yield Outside(authority, funnel, dns)


async def check(server: Server, name: str) -> dict[str, Any]:
    health = await server.get("/health")
    found: dict[str, Any] = next(c for c in health["checks"] if c["name"] == name)
    return {**found, "status": health["status"]}


def script(world: World, body: str) -> str:
    return world.origin.commit({"ci": f"#!/bin/sh\n{body}\n"}, executable=["ci"])


async def until_funnel(
    server: Server, beginning: str, pattern: str = ""
) -> dict[str, Any]:
    """Wait until the check's detail begins so and has the pattern; return the check."""

    async def seen() -> dict[str, Any] | None:
        found = await check(server, "funnel")
        said = found["detail"]
        begins = said.startswith(f"{beginning}: ")
        return found if begins and re.search(pattern, said) else None

    found: dict[str, Any] | None = await wait_until(
        seen, 60, what=f"{beginning}: … {pattern}"
    )
    assert found is not None
    assert found["ok"] is (beginning == "reachable")
    assert found["ok"] or (found["status"] == "degraded" and found["fix"])
    return found


async def until_reachable(server: Server, wanted: int) -> None:
    """Wait until the metrics say so, too: meanwhile it may have been asked again."""

    async def so() -> bool:
        text = (await server.text("/metrics")).decode()
        found = re.search(r"^build_server_funnel_reachable (\S+)$", text, re.MULTILINE)
        assert found is not None
        return float(found[1]) == wanted

    await wait_until(so, 60, what=f"funnel_reachable {wanted}")


async def deliveries(server: Server, *outcomes: str) -> float:
    """How many were counted, of all outcomes when none is named."""
    text = (await server.text("/metrics")).decode()
    counted = re.findall(
        r'^build_server_deliveries_total{outcome="(\w+)"} (\S+)$', text, re.MULTILINE
    )
    assert counted
    return sum(float(n) for outcome, n in counted if outcome in (outcomes or outcome))


async def test_a_funnel_that_breaks_is_seen_within_seconds_and_so_is_its_repair(
    command_world: World, outside: Outside
) -> None:
    outside.configure(command_world)
    async with outside.served(command_world) as server:
        await until_funnel(server, "reachable")
        await until_reachable(server, 1)
        # It asks many times in this test; none of that counts as a delivery.
        assert await deliveries(server) == 0

        await outside.funnel.close()
        # A question that was under way is cut off; the next one finds nobody.
        broken = await until_funnel(server, UNREACHABLE, "connection refused")
        assert "tailscale funnel" in broken["fix"]
        await until_reachable(server, 0)
        await outside.funnel.open()
        await until_funnel(server, "reachable")

        outside.funnel.stalled = True
        await until_funnel(server, UNREACHABLE, "no answer in 2 s")
        outside.funnel.stalled = False
        await until_funnel(server, "reachable")
        assert await deliveries(server) == 0


async def test_a_certificate_that_clients_refuse_is_no_way_in(
    command_world: World, outside: Outside
) -> None:
    outside.configure(command_world)
    wrong = await asyncio.to_thread(outside.authority.context, "other.example")
    past = await asyncio.to_thread(outside.authority.context, NAME, days=-1)
    good = outside.funnel.context
    assert good is not None
    async with outside.served(command_world) as server:
        for context, words in ((wrong, NAME), (past, "expired")):
            await until_funnel(server, "reachable")
            await outside.funnel.change(context)
            pattern = rf"127\.0\.0\.1: .*{re.escape(words)}"
            broken = await until_funnel(server, UNREACHABLE, pattern)
            assert "tailscale cert" in broken["fix"]
            await outside.funnel.change(good)
        await until_funnel(server, "reachable")


async def test_another_server_behind_our_name_is_not_us(
    command_world: World, outside: Outside, tmp_path: Path
) -> None:
    """And the doctor, who asks in the same way, tells whether there is a server at all."""
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = World(
        other_folder,
        command_world.origin,
        command_world.github,
        command_world.environ,
        "nix",
        repository=command_world.repository,
        secret=b"another secret, 32 bytes or more".replace(b" ", b"-"),
    )
    outside.configure(command_world)
    async with outside.served(command_world) as server, other.server() as stranger:
        await until_funnel(server, "reachable")
        assert "✓ funnel" in await doctor(command_world, outside)
        outside.lead_to(stranger.public)
        broken = await until_funnel(server, NOT_US)
        assert "answers 401" in broken["detail"]
        assert "another secret" in broken["detail"]
    told = await doctor(command_world, outside)
    assert re.search(r"✗ funnel +the server does not run", told)


async def doctor(world: World, outside: Outside) -> str:
    """What `build-server doctor` prints."""
    process = await asyncio.create_subprocess_exec(
        *world.command("doctor", "--config", str(world.folder / "config.toml")),
        env={**world.environ, "SSL_CERT_FILE": str(outside.authority.file)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode()


def known_here() -> str | None:
    """A name that only this machine's own files or resolver lead to itself."""
    for name in (socket.gethostname(), "ip6-localhost", "ip6-loopback"):
        try:
            found = socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        except OSError:
            continue
        if any(address[4][0] == "127.0.0.1" for address in found):
            return name.lower()
    return None


async def test_a_name_that_only_the_own_resolver_knows_leads_nobody_here(
    command_world: World, outside: Outside
) -> None:
    """MagicDNS answers while Funnel is down; public DNS is what GitHub asks."""
    name = await asyncio.to_thread(known_here)
    if name is None or name == "localhost":
        pytest.skip(
            "this machine's own resolver knows no name for 127.0.0.1 but localhost: "
            "not tested that the self-probe does without it"
        )
    outside.configure(command_world, name)
    await outside.funnel.change(
        await asyncio.to_thread(outside.authority.context, name)
    )
    outside.dns.addresses = {}
    async with outside.served(command_world) as server:
        # By that name everything works, for whoever asks this machine's resolver.
        _, writer = await asyncio.open_connection(name, outside.funnel.port)
        writer.close()
        broken = await until_funnel(server, UNREACHABLE)
        assert f"knows no address of {name}" in broken["detail"]
        outside.dns.addresses = {name: ["127.0.0.1"]}
        await until_funnel(server, "reachable")
        assert {asked for asked, _ in outside.dns.asked} == {name}


async def test_a_stranger_s_question_is_a_stranger_s_delivery(
    command_world: World,
) -> None:
    command_world.github_table = {"reconcile_every": "never"}
    body = question(b"\0" * 32)
    async with command_world.server() as server:
        head = headers(body, b"x" * 32, event=EVENT)
        seen = set()
        for sent in (head, {**head, "X-Hub-Signature-256": ""}):
            async with server.session.post(
                f"{server.public}/webhook", data=body, headers=sent
            ) as response:
                seen.add((response.status, await response.read()))
        assert seen == {(401, CONSTANT_401)}
        status, answer = await server.deliver(body, event=EVENT)
        assert (status, set(answer)) == (200, {"probe"})
        status, again = await server.deliver(body, event="push")
        assert (status, again) == (200, answer)
        builds = await server.get("/builds")
        assert builds["builds"] == []
        assert await deliveries(server, "accepted", "ignored") == 0
        assert await deliveries(server, "refused") == 2


async def until_clock(server: Server, *, ok: bool) -> dict[str, Any]:
    """Wait until the check says so: the stand-in knows of an answer before we do."""

    async def so() -> dict[str, Any] | None:
        found = await check(server, "clock")
        return found if found["ok"] is ok else None

    found: dict[str, Any] | None = await wait_until(
        so, 60, what=f"a clock that is {ok}"
    )
    assert found is not None
    return found


async def test_a_clock_an_hour_off_is_told_as_soon_as_github_answers(
    command_world: World,
) -> None:
    github = command_world.github
    github.clock_offset = 3600.0
    commit = script(command_world, "exit 0")
    async with command_world.server() as server:
        before = await check(server, "clock")
        assert before["ok"]
        assert before["detail"].endswith("GitHub did not tell its own")
        await server.push(commit)
        await github.wait_for(commit, "success", 60)
        wrong = await until_clock(server, ok=False)
        assert wrong["status"] == "degraded"
        assert re.search(r" is 3[56]\d\d s behind GitHub$", wrong["detail"])
        assert "hwclock -s" in wrong["fix"]
        text = (await server.text("/metrics")).decode()
        skew = re.search(r"^build_server_clock_skew_seconds (\S+)$", text, re.MULTILINE)
        assert skew is not None
        assert 3590 < float(skew[1]) < 3610
        github.clock_offset = 0.0
        second = script(command_world, "exit 0 # again")
        await server.push(second, before=commit)
        await github.wait_for(second, "success", 60)
        await until_clock(server, ok=True)
