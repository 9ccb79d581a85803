"""What is found at the public address, for every way in which it can be wrong."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from ci import config
from ci.adapters.metrics import Metrics
from ci.config import Settings
from ci.history.database import Database
from ci.outside.asking import ask_outside
from ci.outside.finding import Finding, Reach
from ci.outside.watch import OutsideWatch
from tests.fakes.funnel import Funnel, PublicDns
from tests.fakes.push import REPO, SECRET
from tests.fakes.waiting import PATIENCE, wait_until
from tests.intake.edge import Edge, running_edge

NAME = "builder.example-tailnet.ts.net"
OTHER = b"another secret, 32 bytes or more"
# With what does not answer; the others have time.
BRIEF = 1.0


@dataclass
class Outside:
    """A name, the DNS server that knows it, and the Funnel that it leads to."""

    edge: Edge
    funnel: Funnel
    dns: PublicDns
    host: str = NAME
    path: str = "/webhook"
    patience: float = PATIENCE
    resolvers: list[str] = field(default_factory=list)

    def settings(self) -> Settings:
        github = {"public_resolvers": [self.dns.address, *self.resolvers]}
        parsed = config.parse({"github": github, "repository": [{"name": REPO}]})
        # The configuration takes plain http for this machine only; TLS has tests of
        # its own, with the real server.
        url = f"http://{self.host}:{self.funnel.port}{self.path}"
        changed = parsed.github.model_copy(update={"public_webhook_url": url})
        return parsed.model_copy(update={"github": changed})

    async def ask(self, *secrets: bytes) -> Finding:
        return await ask_outside(
            self.settings(), secrets or (SECRET,), patience=self.patience
        )


@pytest.fixture
async def outside(database: Database) -> AsyncIterator[Outside]:
    """All is well: name, Funnel, the real public application."""
    settings = config.parse({"repository": [{"name": REPO}]})
    async with (
        running_edge(database, settings) as edge,
        Funnel() as funnel,
        PublicDns({NAME: ["127.0.0.1"]}) as dns,
    ):
        funnel.target = ("127.0.0.1", edge.port)
        yield Outside(edge, funnel, dns)


async def test_where_all_is_well_nothing_is_left_behind(outside: Outside) -> None:
    found = await outside.ask()
    assert found.reach is Reach.REACHABLE
    assert found.check().ok
    assert "by way of 127.0.0.1" in found.detail
    assert set(outside.dns.asked) == {(NAME, "A"), (NAME, "AAAA")}
    assert await outside.edge.rows() == []


async def test_a_secret_that_goes_and_one_that_comes(outside: Outside) -> None:
    """During a rotation the server may know one of our secrets only."""
    assert (await outside.ask(OTHER, SECRET)).reach is Reach.REACHABLE
    outside.edge.secrets[:] = [OTHER]
    assert (await outside.ask(OTHER, SECRET)).reach is Reach.REACHABLE
    assert (await outside.ask(SECRET)).reach is Reach.NOT_US


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_an_address_of_this_machine_needs_no_dns(
    outside: Outside, host: str
) -> None:
    outside.host = host
    outside.dns.silent = True
    assert (await outside.ask()).reach is Reach.REACHABLE
    assert outside.dns.asked == []


async def off(outside: Outside) -> None:
    await outside.funnel.close()


async def nobody_at_the_target(outside: Outside) -> None:
    outside.funnel.target = ("127.0.0.1", 1)


async def another_path(outside: Outside) -> None:
    outside.path = "/hook"


async def hanging(outside: Outside) -> None:
    outside.funnel.stalled = True
    outside.patience = BRIEF
    # Public servers need not be asked: they are in no hurry.
    outside.host = "127.0.0.1"


async def no_such_name(outside: Outside) -> None:
    outside.dns.addresses = {}


async def no_address(outside: Outside) -> None:
    outside.dns.addresses = {NAME: []}


async def silent_dns(outside: Outside) -> None:
    outside.dns.silent = True
    outside.patience = BRIEF


async def failing_dns(outside: Outside) -> None:
    outside.dns.failing = True


Break = Callable[[Outside], Awaitable[None]]


@pytest.mark.parametrize(
    ("broken", "reach", "seen", "remedy"),
    [
        (off, Reach.UNREACHABLE, "connection refused", "--set-path=/webhook http://"),
        (nobody_at_the_target, Reach.NOT_US, "answers 502", "127.0.0.1:8010"),
        (another_path, Reach.NOT_US, "answers 404", "POST /webhook"),
        (hanging, Reach.UNREACHABLE, "no answer in 1 s", "restart tailscaled"),
        (no_such_name, Reach.UNREACHABLE, "knows no address", "MagicDNS"),
        (no_address, Reach.UNREACHABLE, "knows no address", "MagicDNS"),
        (silent_dns, Reach.UNKNOWN, "is this host online?", "nothing against Funnel"),
        (failing_dns, Reach.UNKNOWN, "SERVFAIL", "github.public_resolvers"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_fault_has_its_own_words_and_remedy(
    outside: Outside, broken: Break, reach: Reach, seen: str, remedy: str
) -> None:
    await broken(outside)
    began = asyncio.get_running_loop().time()
    found = await outside.ask()
    # With some a limit has to pass, but for none the long one.
    assert asyncio.get_running_loop().time() - began < PATIENCE
    assert found.reach is reach
    check = found.check()
    assert check.name == "funnel"
    assert not check.ok
    assert check.detail.startswith(f"{reach}: ")
    assert seen in check.detail
    assert remedy in check.fix


@pytest.mark.parametrize(
    ("status", "headers", "body", "seen"),
    [
        (401, {}, b"", "another secret"),
        (200, {}, b"hello", "answers 200"),
        (200, {}, b'{"probe": "00"}', "answers 200"),
        (200, {}, b'{"probe": 7}', "another program"),
        (200, {}, b"[" * 5000, "another program"),
        (302, {"Location": "https://elsewhere.example/"}, b"", "a redirect"),
        (404, {"Server": "nginx\u202e"}, b"", "(nginx"),
        (503, {"Server": "build-server"}, b"", "could not handle"),
    ],
)
async def test_whatever_answers_without_our_secret_is_not_us(
    outside: Outside,
    aiohttp_server: AiohttpServer,
    status: int,
    headers: dict[str, str],
    body: bytes,
    seen: str,
) -> None:
    followed = []

    async def handler(request: web.Request) -> web.Response:
        followed.append(request.path)
        return web.Response(status=status, headers=headers, body=body)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    other = await aiohttp_server(application)
    outside.funnel.target = ("127.0.0.1", other.port or 0)
    found = await outside.ask()
    assert found.reach is Reach.NOT_US
    assert seen in found.detail
    assert found.detail.isprintable()
    assert followed == ["/webhook"]


async def test_an_answer_heard_before_proves_nothing(
    outside: Outside, aiohttp_server: AiohttpServer
) -> None:
    """Who once passed a question on to us cannot answer the next one."""
    heard: list[bytes] = []

    async def eavesdrop(request: web.Request) -> web.Response:
        async with outside.edge.client.post(
            "/webhook", data=await request.read(), headers=dict(request.headers)
        ) as response:
            heard.append(await response.read())
        return web.Response(body=heard[0])

    application = web.Application()
    application.router.add_post("/webhook", eavesdrop)
    other = await aiohttp_server(application)
    outside.funnel.target = ("127.0.0.1", other.port or 0)
    assert (await outside.ask()).reach is Reach.REACHABLE, "a relay is a way in"
    assert (await outside.ask()).reach is Reach.NOT_US


async def test_one_of_several_addresses_is_enough_but_the_others_are_told(
    outside: Outside,
) -> None:
    # 127.0.0.2 refuses; nothing can be sent to the documentation's IPv6 from here.
    outside.dns.addresses = {NAME: ["2001:db8::1", "127.0.0.2", "127.0.0.1"]}
    found = await outside.ask()
    assert found.reach is Reach.REACHABLE
    assert "by way of 127.0.0.1" in found.detail
    assert "127.0.0.2: connection refused" in found.detail


async def test_one_resolver_of_two_is_enough(outside: Outside) -> None:
    async with PublicDns({}) as dead:
        dead.silent = True
        outside.resolvers = [dead.address]
        assert (await outside.ask()).reach is Reach.REACHABLE
        assert dead.asked, "all are asked"


async def test_the_watch_tells_what_it_saw_last_and_hurries_when_asked(
    outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """It would look again in 15 s; woken, it looks at once."""
    metrics = Metrics("1")
    skew: list[float | None] = [None]
    watch = OutsideWatch(outside.settings(), lambda: [SECRET], lambda: skew[0])
    watch.measured_by(metrics)
    clock, funnel = watch.checks()
    assert (clock.ok, funnel.ok) == (True, True)
    assert "not asked yet" in funnel.detail
    assert math.isnan(_gauge(metrics, "funnel_reachable"))
    assert math.isnan(_gauge(metrics, "clock_skew_seconds"))
    skew[0] = -90
    assert watch.checks()[0].detail.endswith("is 90 s ahead of GitHub")
    assert "hwclock -s" in watch.checks()[0].fix
    assert _gauge(metrics, "clock_skew_seconds") == -90
    await outside.funnel.close()
    running = asyncio.create_task(watch.run())
    try:
        await wait_until(lambda: not watch.checks()[1].ok, what="a refusal")
        assert _gauge(metrics, "funnel_reachable") == 0
        await outside.funnel.open()
        watch.hurry()
        await wait_until(lambda: watch.checks()[1].ok, what="the repair")
        assert _gauge(metrics, "funnel_reachable") == 1
    finally:
        running.cancel()
        await asyncio.wait([running])
    told = [r.getMessage() for r in caplog.records if r.name == "ci.outside.watch"]
    assert len(told) == 1, "what is well again is told at the level of information"
    assert "not reachable" in told[0]


def _gauge(metrics: Metrics, name: str) -> float:
    value = metrics.registry.get_sample_value(f"build_server_{name}")
    assert value is not None
    return value


def test_the_library_for_dns_is_loaded_by_the_first_question_only() -> None:
    script = "import sys, ci.app, ci.doctor; print('dns' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


async def test_without_a_public_address_there_is_only_the_clock() -> None:
    settings = config.parse({"repository": [{"name": REPO}]})
    watch = OutsideWatch(settings, lambda: [SECRET], lambda: 0.4)
    (clock,) = watch.checks()
    assert clock.ok
    assert clock.detail.endswith(", as at GitHub")
    metrics = Metrics("1")
    watch.measured_by(metrics)
    assert metrics.registry.get_sample_value("build_server_funnel_reachable") is None
