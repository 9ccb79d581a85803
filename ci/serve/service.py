"""What the handlers of the private application share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from ci.adapters.metrics import Metrics
from ci.config import Secrets, Settings
from ci.history.database import Database
from ci.models import Build, Check
from ci.serve import shapes
from ci.serve.follow import Watches
from ci.wake import Wake

Checks = Callable[[], Awaitable[list[Check]]]


@dataclass(frozen=True)
class Service:
    """The parts behind the routes."""

    settings: Settings
    secrets: Callable[[], Secrets]
    database: Database
    wake: Wake
    watches: Watches
    metrics: Metrics
    checks: Checks
    version: str

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
