"""Secrets change while the server runs: taken when they are fit, kept when they are not."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest

from ci import config
from ci.credentials import Credentials, Pace
from ci.log import Handler, HumanFormatter, Redactor
from tests.fakes.waiting import PATIENCE, wait_until

CANARY = "c4n4ry-c4n4ry-c4n4ry"
# Nothing here waits for these to pass; what must not happen is outlived by them.
QUICK = Pace(every=0.02, settle=0.02, patience=0.2, longest=600.0)


@dataclass
class Place:
    """A configuration, its secret files, and what the reloads said."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    changes: list[frozenset[str]] = field(default_factory=list)
    github: str = ""
    more: str = ""

    @property
    def file(self) -> Path:
        return self.folder / "config.toml"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def replace(self, name: str, text: str) -> None:
        """As a careful program does it: a new file takes the place of the old one."""
        os.replace(self.write(f"{name}.new", text), self.folder / name)

    def configure(self) -> None:
        self.file.write_text(
            f'state_dir = "{self.folder}"\n[github]\n{self.github}\n'
            f'{self.more}\n[[repository]]\nname = "o/n"\n'
        )

    def credentials(self, pace: Pace = QUICK) -> Credentials:
        settings = config.load(self.file, environ=self.environ)
        secrets = config.read_secrets(settings, self.environ)
        made = Credentials(settings, secrets, self.environ, file=self.file, pace=pace)
        made.on_change(self.changes.append)
        return made

    @asynccontextmanager
    async def running(self, pace: Pace = QUICK) -> AsyncIterator[Credentials]:
        credentials = await asyncio.to_thread(self.credentials, pace)
        task = asyncio.create_task(credentials.run())
        try:
            yield credentials
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two files, one for the webhook and one for the token; both good."""
    made = Place(tmp_path)
    made.write("webhook", f"old-{CANARY}\n")
    made.write("token", f"token-{CANARY}\n")
    made.github = (
        f'webhook_secret_file = "{tmp_path}/webhook"\ntoken_file = "{tmp_path}/token"'
    )
    made.configure()
    return made


def good(credentials: Credentials) -> bool:
    return all(check.ok for check in credentials.checks())


def trouble(credentials: Credentials) -> str:
    (check,) = [check for check in credentials.checks() if not check.ok]
    assert check.fix
    return check.detail


def rename(place: Place, text: str) -> None:
    place.replace("token", text)


def in_place(place: Place, text: str) -> None:
    place.write("token", text)


def turn_a_link(place: Place, text: str) -> None:
    """agenix, sops-nix: a new generation, and a link of links turned to it."""
    generation = place.folder / f"generation-{len(place.changes)}"
    generation.mkdir()
    (generation / "token").write_text(text)
    link = place.folder / "turned"
    link.symlink_to(generation)
    os.replace(link, place.folder / "secrets")


@pytest.mark.parametrize("change", [rename, in_place, turn_a_link])
async def test_a_changed_file_is_taken_whichever_way_it_changed(
    place: Place,
    change: Callable[[Place, str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    if change is turn_a_link:
        turn_a_link(place, f"token-{CANARY}")
        place.github = place.github.replace("/token", "/secrets/token")
        place.configure()
    async with place.running() as credentials:
        assert credentials.current.github_token == f"token-{CANARY}"
        place.changes.append(frozenset())
        change(place, f"newer-{CANARY}")
        await wait_until(lambda: place.changes[1:], what="the reload")
        assert credentials.current.github_token == f"newer-{CANARY}"
        assert credentials.current.webhook == (f"old-{CANARY}".encode(),)
        assert place.changes[1:] == [{"github_token"}]
        assert good(credentials)
    assert "secrets reloaded: GitHub token" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("short", "too few for a secret"),
        (None, "does not exist"),
        (f"TOKEN={CANARY}\nMORE=x", "must hold the secret alone"),
    ],
)
async def test_what_is_unfit_is_told_and_changes_nothing(
    place: Place, caplog: pytest.LogCaptureFixture, text: str | None, words: str
) -> None:
    caplog.set_level(logging.INFO)
    async with place.running() as credentials:
        before = credentials.current
        if text is None:
            (place.folder / "webhook").unlink()
        else:
            place.write("webhook", text)
        await wait_until(lambda: not good(credentials), what="the alarm")
        assert "the old secrets stay in use" in trouble(credentials)
        assert words in trouble(credentials)
        assert credentials.current is before
        assert place.changes == []
        place.replace("webhook", f"new-{CANARY}")
        await wait_until(lambda: good(credentials), what="the good reload")
        assert credentials.current.webhook == (f"new-{CANARY}".encode(),)
        assert place.changes == [{"webhook"}]
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(told) == 1, told
    assert words in told[0]
    assert CANARY not in caplog.text


async def test_a_file_that_is_half_written_for_a_moment_alarms_nobody(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Emptied, then longer and longer: fit by its form long before it is whole."""
    whole = f"whole-{CANARY}-{'x' * 40}"
    pace = replace(QUICK, settle=0.2, patience=600.0)
    async with place.running(pace) as credentials:
        seen = {credentials.current.github_token}
        path = place.write("token", "")
        # Empty for several looks, but not for as long as makes it trouble.
        await asyncio.sleep(3 * pace.settle)
        with path.open("a") as stream:
            for begin in range(0, len(whole), 4):
                # A slow writer, but one that never rests for two looks.
                await asyncio.sleep(pace.settle / 4)
                stream.write(whole[begin : begin + 4])
                stream.flush()
                seen.add(credentials.current.github_token)
        await wait_until(lambda: place.changes, what="the reload")
        seen.add(credentials.current.github_token)
    assert seen == {f"token-{CANARY}", whole}
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_files_that_never_rest_are_not_waited_for_forever(place: Place) -> None:
    pace = replace(QUICK, longest=0.3)
    async with place.running(pace) as credentials:
        for number in itertools.count():
            await asyncio.sleep(pace.settle / 4)
            place.replace("token", f"token-{number}-{CANARY}")
            if not good(credentials):
                break
        assert "do not stop changing" in trouble(credentials)
        await wait_until(lambda: good(credentials), what="the rest")
        assert credentials.current.github_token == f"token-{number}-{CANARY}"


async def test_hangup_applies_new_paths_and_nothing_else_of_the_configuration(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place.write("webhook-new", f"new-{CANARY}")
    place.write("api", f"api-{CANARY}")
    place.github = place.github.replace(
        f'"{place.folder}/webhook"',
        f'["{place.folder}/webhook-new", "{place.folder}/webhook"]',
    )
    async with place.running() as credentials:
        place.configure()
        credentials.reload_soon()
        await wait_until(lambda: place.changes, what="the reload")
        assert len(credentials.current.webhook) == 2
        assert "restart to apply" not in caplog.text
        assert credentials.checks()[0].detail.startswith("2 webhook secrets, ")
        place.github += '\nstatus_context = "other"'
        place.more = f'[build]\nparallel = 7\n[api]\ntoken_file = "{place.folder}/api"'
        place.configure()
        credentials.reload_soon()
        await wait_until(lambda: place.changes[1:], what="the second reload")
        assert place.changes[1] == {"api_token"}
        assert credentials.current.api_token == f"api-{CANARY}"
    assert (
        "the configuration changed; restart to apply it "
        "(github.status_context, build.parallel)" in caplog.text
    )


async def test_hangup_with_an_invalid_configuration_changes_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    never = replace(QUICK, every=3600)
    async with place.running(never) as credentials:
        before = credentials.current
        place.write("token", f"newer-{CANARY}")
        place.file.write_text('[github]\ntoken_fiel = "x"\n')
        credentials.reload_soon()
        await wait_until(lambda: not good(credentials), what="the alarm")
        assert "did you mean github.token_file" in trouble(credentials)
        assert credentials.current is before
        assert place.changes == []
        assert "nothing was reloaded: " in caplog.text
        place.configure()
        credentials.reload_soon()
        await wait_until(lambda: place.changes, what="the good reload")
        assert good(credentials)
        assert credentials.current.github_token == f"newer-{CANARY}"


async def test_another_kind_of_credential_waits_for_the_restart(place: Place) -> None:
    """From a token to an App: without its id a key is of no use, so the token stays."""
    place.write("key", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")
    async with place.running() as credentials:
        place.github = (
            f'webhook_secret_file = "{place.folder}/webhook"\napp_id = 7\n'
            f'app_key_file = "{place.folder}/key"'
        )
        place.configure()
        credentials.reload_soon()
        await wait_until(lambda: place.changes, what="the reload")
        assert place.changes == [frozenset()]
        assert credentials.current.github_token == f"token-{CANARY}"


async def test_a_hangup_is_told_to_who_waits_even_if_nothing_changed(
    place: Place,
) -> None:
    """The owner may have put the token right on GitHub's side."""
    async with place.running() as credentials:
        credentials.reload_soon()
        await wait_until(lambda: place.changes, what="the call")
        assert place.changes == [frozenset()]


@pytest.fixture
def systemd(tmp_path: Path) -> Place:
    """Secrets as systemd's credentials; no path is configured."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    made = Place(directory, {"CREDENTIALS_DIRECTORY": str(directory)})
    for name in ("webhook-secret", "api-token"):
        made.write(name, f"{name}-{CANARY}")
    made.configure()
    return made


async def test_a_credential_that_vanishes_switches_no_protection_off(
    systemd: Place,
) -> None:
    async with systemd.running() as credentials:
        (systemd.folder / "api-token").unlink()
        await wait_until(lambda: not good(credentials), what="the alarm")
        assert "api.token_file: the API token is gone" in trouble(credentials)
        assert credentials.current.api_token == f"api-token-{CANARY}"
        systemd.write("api-token", f"api-token-{CANARY}")
        await wait_until(lambda: good(credentials), what="the end of the alarm")
        # A second webhook secret may come and go: that is a rotation.
        systemd.write("webhook-secret-2", f"second-{CANARY}")
        await wait_until(lambda: len(credentials.current.webhook) == 2)
        (systemd.folder / "webhook-secret-2").unlink()
        await wait_until(lambda: len(credentials.current.webhook) == 1)
        assert good(credentials)


async def test_a_token_that_the_configuration_gives_up_is_given_up(
    place: Place,
) -> None:
    place.write("api", f"api-{CANARY}")
    place.more = f'[api]\ntoken_file = "{place.folder}/api"'
    place.configure()
    async with place.running() as credentials:
        assert credentials.current.api_token
        place.more = ""
        place.configure()
        credentials.reload_soon()
        await wait_until(lambda: place.changes, what="the reload")
        assert credentials.current.api_token is None
        assert good(credentials)


async def test_systemd_hears_that_a_reload_begins_and_ends(place: Place) -> None:
    path = place.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        place.environ["NOTIFY_SOCKET"] = str(path)
        async with place.running() as credentials:
            credentials.reload_soon()
            begun = await asyncio.to_thread(manager.recv, 1000)
            assert begun.startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert int(begun.rpartition(b"=")[2]) > 0
            assert await asyncio.to_thread(manager.recv, 1000) == b"READY=1"


async def test_the_new_secret_is_kept_out_of_the_log_before_it_is_used(
    place: Place,
) -> None:
    root, stream = logging.getLogger(), StringIO()
    handler = Handler(stream, HumanFormatter(Redactor(), colour=False))
    root.addHandler(handler)
    try:
        async with place.running() as credentials:
            credentials.on_change(
                lambda _: root.warning("it is %s", credentials.current.github_token)
            )
            place.replace("token", f"newer-{CANARY}")
            await wait_until(lambda: place.changes, what="the reload")
        handler.flush()
    finally:
        root.removeHandler(handler)
    assert "it is [secret]" in stream.getvalue()
    assert CANARY not in stream.getvalue()
