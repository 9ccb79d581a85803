"""What every test can ask for; one area's fixtures are in tests/<area>/conftest.py."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from ci.history.database import Database
from tests.fakes.loop_guard import loop_guard
from tests.fakes.nix_stores import (
    NixMissing,
    NixProgram,
    NixStore,
    find_nix,
    private_store,
    served,
)
from tests.fakes.ports import keep_port, port_of

TESTS = Path(__file__).parent
NIX_VERSIONS = ("installed", "modern")
# What takes longest is begun first, so that in the end no core waits for a minute's test.
LONG = ("tests/model/", "tests/faults/", "tests/browser/", "tests/end_to_end/")
FOREIGN = ("BUILD_SERVER_", "CREDENTIALS_DIRECTORY", "GIT_", "LISTEN_", "NIX_")
KEPT = ("NIX_SSL_CERT_FILE", "NIX_MODERN")

# `make explore`: other examples each time.
settings.register_profile(
    "explore", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def pytest_configure(config: pytest.Config) -> None:
    """Leave nothing of the developer's own environment that could steer the tests."""
    for marker in (
        "nix: needs a real Nix; run for each version",
        "faults: too long for `make test`; `make test-faults` runs it",
        "soak: as long as you like; `make soak` runs it",
    ):
        config.addinivalue_line("markers", marker)
    for name in list(os.environ):
        if name.startswith(FOREIGN) and name not in KEPT:
            del os.environ[name]
    # Started in the background of a shell we ignore Ctrl-C, and so would our children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
    os.environ["GIT_CONFIG_GLOBAL"] = str(TESTS / "samples/git/config")


class Apart(LoadFileScheduling):  # type: ignore[misc]
    """A file at a time for each worker; browser tests share a day's builds, and one."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/browser/"):
            return "tests/browser"
        return str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Apart:
    return Apart(config, log)


def _place(item: pytest.Item) -> int:
    found = (n for n, folder in enumerate(LONG) if item.nodeid.startswith(folder))
    return next(found, len(LONG))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    for item in items:
        if "nix_version" in getattr(item, "fixturenames", ()):
            item.add_marker("nix")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what was not tested, with why, once per reason."""
    reasons = Counter(
        report.longrepr[2]
        if isinstance(report.longrepr, tuple)
        else str(report.longrepr)
        for report in terminalreporter.getreports("skipped")
    )
    if reasons:
        terminalreporter.section("NOT TESTED HERE", yellow=True, bold=True)
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:4} × {reason.removeprefix('Skipped: ')}")


@pytest.fixture(autouse=True)
def blocking_calls() -> Iterator[BlockBuster]:
    """Fail what blocks the event loop; exceptions are in tests/fakes/loop_guard.py."""
    with loop_guard() as guard:
        yield guard


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A real, migrated, empty history."""
    opened = await Database.open(tmp_path / "history.sqlite")
    yield opened
    await opened.close()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The URL of a port of this host on which nobody listens while the test runs."""
    with keep_port() as kept:
        yield f"http://127.0.0.1:{port_of(kept)}"


@pytest.fixture(scope="session", params=NIX_VERSIONS)
def nix_version(request: pytest.FixtureRequest) -> NixProgram:
    """Each Nix in turn: the system's own, then today's; skipped aloud when absent."""
    try:
        return find_nix(request.param)
    except NixMissing as error:
        pytest.skip(f"Nix ({request.param}): {error}")


@pytest.fixture(scope="session")
def nix(nix_version: NixProgram) -> Iterator[NixStore]:
    """A private store for direct use, shared by all tests: add, never delete."""
    with private_store(nix_version) as store:
        yield store


@pytest.fixture
def fresh_nix(nix_version: NixProgram) -> Iterator[NixStore]:
    """A private store of this test alone: delete, collect and break what you like."""
    with private_store(nix_version) as store:
        yield store


@pytest.fixture(scope="session")
def nix_daemon_store(nix_version: NixProgram) -> Iterator[NixStore]:
    """A private store behind a running nix-daemon, shared like `nix`."""
    with private_store(nix_version) as store, served(store) as behind_daemon:
        yield behind_daemon
