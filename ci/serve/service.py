"""What the handlers of the private application share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

from ci.adapters.metrics import Metrics
from ci.config import Secrets, Settings
from ci.door import Refusal
from ci.history.database import Database
from ci.models import Build, Check
from ci.serve import shapes
from ci.serve.follow import Watches
from ci.serve.news import News
from ci.serve.seen import Opened, Said, Seen
from ci.wake import Wake

Checks = Callable[[], Awaitable[list[Check]]]
# The doctor's checks; None: it is still looking for the first time.
Examine = Callable[[], Awaitable[list[Check] | None]]
# What was turned away at the public door since a moment in milliseconds.
Refused = Callable[[int], Refusal | None]
# Has GitHub send a ping; the sentence of what became of that, and whether it will.
Ping = Callable[[], Awaitable[tuple[bool, str]]]


async def _unexamined() -> list[Check] | None:
    return []


async def _nobody() -> tuple[bool, str]:
    return False, "this server cannot ask GitHub"


@dataclass(frozen=True)
class FirstRun:
    """What the page of the first run asks besides the history."""

    examine: Examine = _unexamined
    refused: Refused = lambda _after: None
    ping: Ping = _nobody
    seen: Seen = field(default_factory=Seen)
    said: Said = field(default_factory=Said)
    opened: Opened = field(default_factory=Opened)


@dataclass(frozen=True)
class Service:
    """The parts behind the routes."""

    settings: Settings
    secrets: Callable[[], Secrets]
    database: Database
    wake: Wake
    watches: Watches
    news: News
    metrics: Metrics
    checks: Checks
    version: str
    first_run: FirstRun = field(kw_only=True)
    # Why no build may begin now, as far as the host is concerned; empty when one may.
    waits: Callable[[], str] = field(kw_only=True)
    # Seconds that the answer to what was asked for waits for its outcome.
    patience: float = field(kw_only=True)

    @property
    def api_token(self) -> str | None:
        """The token of this moment; None: no token is asked for."""
        return self.secrets().api_token

    def shape(self, build: Build) -> shapes.Build:
        """The answer for a build."""
        return shapes.Build.of(build, self.settings.public_url)

    def shape_all(self, builds: list[Build]) -> list[shapes.Build]:
        """The answers for several builds."""
        return [self.shape(build) for build in builds]


SERVICE = web.AppKey("service", Service)


def service_of(request: web.Request) -> Service:
    """The parts behind the application that got this request."""
    return request.app[SERVICE]
