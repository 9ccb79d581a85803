from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ci.config import Settings, parse
from ci.history.database import Database
from tests.fakes.push import REPO
from tests.intake.edge import Edge, running_edge


def make_settings(*repositories: dict[str, Any]) -> Settings:
    """Settings with these `[[repository]]` tables, one for the fakes' own when none."""
    return parse({"repository": list(repositories) or [{"name": REPO}]})


@pytest.fixture
def settings() -> Settings:
    """One repository, branches `dev` and `release/1.0`."""
    return make_settings({"name": REPO, "branches": ["dev", "release/1.0"]})


@pytest.fixture
async def edge(database: Database, settings: Settings) -> AsyncIterator[Edge]:
    """The public edge over an empty history."""
    async with running_edge(database, settings) as running:
        yield running
