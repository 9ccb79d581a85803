"""Stories that the machine once told and that ended badly, told again step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.github import FakeGitHub
from tests.model.driver import Driver
from tests.model.end import settle
from tests.model.refs import Script

DEV, RELEASE, OTHER = 0, 1, 3
PASSES, DAWDLES = [Script.PASSES], [Script.DAWDLES]


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    """A server that nobody's looking helps: what webhooks do not tell is not found."""
    opened = Driver(tmp_path, sandbox=False, reconcile=False, github=FakeGitHub())
    await opened.open()
    yield opened
    await opened.close()


async def busy(driver: Driver) -> None:
    """Something is known of `dev`; then both slots are taken, one for longer."""
    await driver.push(DEV, PASSES * 2, "told")
    await driver.built()
    await driver.push(OTHER, DAWDLES, "told")
    await driver.wait(0.3)
    await driver.push(RELEASE, DAWDLES, "told")


async def test_a_force_push_that_is_told_late_takes_nothing_from_the_branch(
    driver: Driver,
) -> None:
    """What waits is held against the branch as it is, not as that push once made it."""
    await busy(driver)
    await driver.rewrite(DEV, 1, PASSES, "held")
    await driver.rewrite(DEV, 1, PASSES, "told")
    await driver.late(0)
    await settle(driver)


async def test_a_head_that_was_announced_a_moment_ago_can_be_asked_for(
    driver: Driver,
) -> None:
    """It has a build, which nobody has fetched the commit for yet."""
    await busy(driver)
    await driver.rewrite(DEV, 1, PASSES, "told")
    await driver.trigger(DEV, None, force=False)
    await settle(driver)
