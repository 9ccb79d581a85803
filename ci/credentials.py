"""The secrets in use, read again while the server runs.

The files are looked at every few seconds, so that it does not matter how they change:
written in place, replaced by a rename, or by turning a link as agenix and sops-nix do.
SIGHUP looks at once, and at the configuration too, of which only the paths of secrets
are applied. What is unfit is said, and changes nothing: the secrets in use stay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ci import config
from ci.adapters import systemd
from ci.config import Secrets, Settings
from ci.config.fields import Table
from ci.errors import ConfigurationError
from ci.log import keep_out
from ci.models import Check

log = logging.getLogger(__name__)

# What the fields of Secrets are called in the log and in `/health`.
NAMES: Mapping[str, str] = {
    "webhook": "webhook secret",
    "github_token": "GitHub token",
    "app_key": "key of the GitHub App",
    "api_token": "API token",
    "notify_urls": "addresses of messages",
}

# The keys of the configuration that a reload applies.
PATHS: Mapping[str, tuple[str, str]] = {
    "webhook": ("github", "webhook_secret_file"),
    "github_token": ("github", "token_file"),
    "app_key": ("github", "app_key_file"),
    "api_token": ("api", "token_file"),
    "notify_urls": ("notify", "urls_file"),
}

Listener = Callable[[frozenset[str]], None]


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks, and how long what was seen must stay the same.

    Editors empty a file before they write it, and a link may lead nowhere for a moment:
    no secret is taken that was not seen twice, `settle` apart, and nobody is told of
    trouble that was over within `patience`.
    """

    every: float = 10.0
    settle: float = 0.5
    patience: float = 5.0
    longest: float = 15.0


@dataclass(frozen=True)
class Unfit:
    """The files as they are cannot be used; one sentence for each reason."""

    problems: tuple[str, ...]


Look = Secrets | Unfit


class Credentials:
    """Supervise `run`; ask `current` each time a secret is needed.

    `file` is the configuration that SIGHUP reads again, None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        environ: Mapping[str, str],
        *,
        file: Path | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.current = secrets
        self._running = settings
        # With the paths of the newest good configuration; `_read_by` those of `current`.
        self._settings = self._read_by = settings
        self._environ = environ
        self._file = file
        self._pace = pace or Pace()
        self._asked = asyncio.Event()
        self._last: Look = secrets
        self._file_problems: tuple[str, ...] = ()
        self._listeners: list[Listener] = []

    def on_change(self, listener: Listener) -> None:
        """Call `listener` after each reload with the fields of Secrets that changed.

        After one that was asked for it is called in any case: whoever asked may have
        put something right elsewhere.
        """
        self._listeners.append(listener)

    def reload_soon(self) -> None:
        """SIGHUP: read the configuration and the secrets again."""
        self._asked.set()

    def checks(self) -> list[Check]:
        """What `/health` says of the secrets, and of a reload that failed."""
        found = [self._check()]
        if self._file_problems:
            found.append(
                Check(
                    "configuration",
                    False,
                    "the file was not read again, the server runs on with what it had: "
                    + "; ".join(self._file_problems),
                    "mend it (`build-server check-config`), then `systemctl reload "
                    "build-server`",
                )
            )
        return found

    def _check(self) -> Check:
        if isinstance(self._last, Unfit):
            return Check(
                "credentials",
                False,
                "the old secrets stay in use: " + "; ".join(self._last.problems),
                f"mend the files; they are looked at every {self._pace.every:g} s, and "
                "at once after `systemctl reload build-server` (SIGHUP)",
            )
        there = [name for field, name in NAMES.items() if getattr(self.current, field)]
        if len(self.current.webhook) > 1:
            there[0] = f"{len(self.current.webhook)} {there[0]}s"
        return Check("credentials", True, ", ".join(there) or "none is used")

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if await self._asked_within(self._pace.every):
                self._asked.clear()
                await self._reload()
            else:
                await self._poll()

    async def _asked_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._asked.wait()
        except TimeoutError:
            return False

    async def _poll(self) -> None:
        look = await self._look()
        if look != self._last:
            self._take(await self._settled(look, self._pace.patience), asked=False)

    async def _reload(self) -> None:
        systemd.notify(systemd.reloading(), environ=self._environ)
        try:
            if await self._reread():
                look = await self._look()
                self._take(await self._settled(look, 0), asked=True)
        finally:
            systemd.notify(systemd.READY, environ=self._environ)

    async def _reread(self) -> bool:
        """Read the configuration again; False when it is not to be used."""
        if self._file is None:
            return True
        try:
            written = await asyncio.to_thread(
                config.load, self._file, environ=self._environ, secrets=False
            )
        except ConfigurationError as error:
            self._file_problems = error.problems
            log.error("nothing was reloaded: %s", "; ".join(error.problems))
            return False
        self._file_problems = ()
        others = ", ".join(_changes(self._running, written))
        if others:
            log.warning("the configuration changed; restart to apply it (%s)", others)
        self._settings = _with_paths_of(self._running, written)
        return True

    async def _look(self) -> Look:
        return await asyncio.to_thread(self._look_now)

    def _look_now(self) -> Look:
        try:
            found = config.read_secrets(self._settings, self._environ)
        except ConfigurationError as error:
            return Unfit(error.problems)
        gone = tuple(self._gone(found))
        return Unfit(gone) if gone else found

    def _gone(self, found: Secrets) -> Iterator[str]:
        """Credentials that went away: no reload switches a protection off in silence.

        A path that was taken out of the configuration is another matter.
        """
        for field in ("github_token", "app_key", "api_token", "notify_urls"):
            lost = getattr(self.current, field) and not getattr(found, field)
            if lost and _path(self._read_by, field) == _path(self._settings, field):
                yield (
                    f"{'.'.join(PATHS[field])}: the {NAMES[field]} is gone from "
                    "$CREDENTIALS_DIRECTORY; restart the server to go on without it"
                )

    async def _settled(self, look: Look, patience: float) -> Look:
        """The first look that stays the same, an unfit one for `patience` seconds."""
        clock = asyncio.get_running_loop().time
        began = since = clock()
        while True:
            await asyncio.sleep(self._pace.settle)
            again, before = await self._look(), look
            look = again
            if again != before:
                since = clock()
                if since - began > self._pace.longest:
                    return Unfit(("the files of the secrets do not stop changing",))
            elif isinstance(again, Secrets) or clock() - since >= patience:
                return again

    def _take(self, look: Look, *, asked: bool) -> None:
        before, self._last = self._last, look
        if isinstance(look, Unfit):
            if asked or look != before:
                log.error("the old secrets stay: %s", "; ".join(look.problems))
            return
        keep_out(look.values())
        old, self.current, self._read_by = self.current, look, self._settings
        changed = frozenset(
            field for field in NAMES if getattr(old, field) != getattr(look, field)
        )
        if changed:
            names = ", ".join(name for field, name in NAMES.items() if field in changed)
            log.info("secrets reloaded: %s", names)
        elif asked or isinstance(before, Unfit):
            log.info("the secrets are good, and none changed")
        if changed or asked:
            for listener in self._listeners:
                listener(changed)


def on_hangup(
    reload: Callable[[], None], end: Callable[[], None]
) -> Callable[[], None]:
    """What SIGHUP does: `reload`, but `end` when it says that our terminal is gone.

    Nobody could see or stop a server that went on without the terminal it was run in.
    """
    by_hand = os.isatty(sys.stderr.fileno())

    def hung_up() -> None:
        gone = by_hand and not os.isatty(sys.stderr.fileno())
        (end if gone else reload)()

    return hung_up


def _path(settings: Settings, field: str) -> object:
    table, key = PATHS[field]
    return getattr(getattr(settings, table), key)


def _with_paths_of(running: Settings, written: Settings) -> Settings:
    """The settings in use, with the paths of secrets as they are written now.

    Where the kind of credential itself was changed (token or App, webhook or none) the
    old paths stay until the restart that such a change needs.
    """
    updates: dict[str, object] = {
        "webhook_secret_file": written.github.webhook_secret_file
    }
    if written.github.webhook != running.github.webhook:
        updates = {}
    if written.github.app_id == running.github.app_id:
        updates["token_file"] = written.github.token_file
        updates["app_key_file"] = written.github.app_key_file
    github = running.github.model_copy(update=updates)
    api = running.api.model_copy(update={"token_file": written.api.token_file})
    urls_file = {"urls_file": written.notify.urls_file}
    notify = running.notify.model_copy(update=urls_file)
    return running.model_copy(update={"github": github, "api": api, "notify": notify})


def _changes(running: Settings, written: Settings) -> Iterator[str]:
    """The keys that differ, but for those that a reload applies."""
    applied = {".".join(path) for path in PATHS.values()}
    for name, field in Settings.model_fields.items():
        old, new = getattr(running, name), getattr(written, name)
        key = field.alias or name
        if isinstance(old, Table) and isinstance(new, Table):
            for leaf in type(old).model_fields:
                differs = getattr(old, leaf) != getattr(new, leaf)
                if differs and f"{key}.{leaf}" not in applied:
                    yield f"{key}.{leaf}"
        elif old != new:
            yield key
