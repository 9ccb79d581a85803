"""`build-server init`: each step is done whole or not at all, so that it can be run again."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ci import config, doctor
from ci.adapters.github import GitHub
from ci.config import DEFAULT_PATH, Secrets, Settings
from ci.errors import ConfigurationError
from ci.init import files, registration, ways
from ci.init.document import Value, read, render
from ci.init.files import InitError
from ci.init.places import Places, service_owner
from ci.init.registration import Registered, Wanted
from ci.init.wishes import (
    Ask,
    Options,
    asked_for,
    cache_name,
    complete,
    differences,
    written,
)

DONE, THERE, LOOK = "✓", "·", "!"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Init:
    """One run. `ask` is None where nobody can be asked; `folder` is where one stands."""

    options: Options
    places: Places
    environ: Mapping[str, str]
    folder: Path
    ask: Ask | None
    say: Say
    colour: bool = False

    def run(self) -> int:
        """Do what is not done yet; 0, or 1 when a file stood in the way.

        Raises ConfigurationError for what is missing or wrong, InitError for a file
        that cannot be made.
        """
        path = self.places.config
        there = self._there()
        wanted = self._wanted(there)
        if there is not None and not self.options.force:
            changes = differences(wanted, self._written())
            if changes:
                self._refuse(changes)
                return 1
        if there is None or self.options.force:
            # Before anything is made; the files that it names may still be missing.
            read(render(wanted))
        self._make_secret(there)
        wanted = self._with_cache(wanted, there)
        if there is None or self.options.force:
            self._write(wanted)
        else:
            self._step(THERE, "configuration", f"{path} is there, unchanged")
        settings = config.load(path, environ=self.environ)
        asyncio.run(
            self._outside(settings, config.read_secrets(settings, self.environ))
        )
        return 0

    def _there(self) -> Settings | None:
        """The configuration that is there already. Its secrets may still be missing."""
        if not self.places.config.exists():
            return None
        try:
            return config.load(self.places.config, environ=self.environ, secrets=False)
        except ConfigurationError:
            if self.options.force:
                return None
            raise

    def _wanted(self, there: Settings | None) -> dict[str, Value]:
        if there is None:
            places, folder = self.places, self.folder
            return complete(self.options, places, self.environ, folder, self.ask)
        if self.options.force:
            return self._written() | asked_for(self.options)
        return asked_for(self.options) | self._cache_wish(there)

    def _written(self) -> dict[str, Value]:
        text = self.places.config.read_text(encoding="utf-8-sig")
        return written(tomllib.loads(text))

    def _cache_wish(self, there: Settings) -> dict[str, Value]:
        """`--cache` where the file has no cache: the key would have to go into it."""
        if not self.options.cache or there.cache is not None:
            return {}
        return {"cache.public_key": "a new key"}

    def _refuse(self, changes: list[str]) -> None:
        path = self.places.config
        self._step(LOOK, "configuration", f"{path} is there and was not changed:")
        for change in changes:
            self.say(f"    {change}")
        self.say("")
        self.say(
            "--force writes it anew with these; the old file stays beside it. Or write "
            "them into it by hand, and run this again."
        )

    # Files

    def _make_secret(self, there: Settings | None) -> None:
        if there is not None and not there.github.webhook:
            return
        path = self._secret_path(there)
        if path is None:
            self._step(THERE, "webhook secret", "comes as a credential of the service")
            return
        owner = service_owner()
        files.make_folder(self.places.config.parent, 0o711)
        if path.parent == self.places.secrets:
            files.make_folder(path.parent, 0o700, owner)
        if files.make_file(path, files.webhook_secret() + "\n", 0o600, owner):
            self._step(DONE, "webhook secret", f"made, in {path}")
        else:
            self._step(THERE, "webhook secret", f"{path} is there, unchanged")

    def _secret_path(self, there: Settings | None) -> Path | None:
        if there is None:
            return self.places.webhook_secret
        named = there.github.webhook_secret_file
        return named[0] if named else None

    def _with_cache(
        self, wanted: dict[str, Value], there: Settings | None
    ) -> dict[str, Value]:
        """Make the cache's key when it is asked for; its public half goes into the file."""
        if not self.options.cache:
            return wanted
        if there is not None and there.cache is not None and not self.options.force:
            self._step(THERE, "cache key", f"public: {there.cache.public_key}")
            return wanted
        public_url = str(wanted["public_url"])
        path = self.places.cache_key
        key = files.make_cache_key(path, cache_name(public_url), service_owner())
        self._step(
            DONE if key.made else THERE,
            "cache key",
            f"{'made, in' if key.made else 'there, in'} {path}: let Harmonia sign with it",
        )
        self.say(f"    public: {key.public}")
        return {**wanted, "cache.public_key": key.public}

    def _write(self, wanted: Mapping[str, Value]) -> None:
        path, text = self.places.config, render(wanted)
        self._judge(text)
        files.make_folder(path.parent, 0o711)
        if files.make_file(path, text, 0o644):
            self._step(DONE, "configuration", f"{path} written")
        elif path.read_text(encoding="utf-8") == text:
            self._step(THERE, "configuration", f"{path} is there, unchanged")
        elif self.options.force:
            kept = files.replace_file(path, text, 0o644)
            self._step(
                DONE, "configuration", f"{path} written anew; {kept} is the old one"
            )
        else:
            raise InitError(f"{path} was made by somebody else just now; run it again")

    def _judge(self, text: str) -> None:
        """Refuse before it is written what `serve` would refuse."""
        settings = read(text)
        config.read_secrets(settings, self.environ)

    # GitHub and the doctor

    async def _outside(self, settings: Settings, secrets: Secrets) -> None:
        if settings.github.webhook:
            await self._register(settings, secrets)
        self.say("")
        checks = await doctor.checks(settings, secrets, self.environ)
        self.say(doctor.render(checks, colour=self.colour))
        self.say("")
        self._next(settings)

    async def _register(self, settings: Settings, secrets: Secrets) -> None:
        url, credential = (
            settings.github.public_webhook_url,
            doctor.credential_of(settings, secrets),
        )
        if not url or credential is None:
            what = "no token" if url else "no public address"
            self._step(LOOK, "webhook", f"{what} is configured; on GitHub, by hand:")
            self._click(settings, secrets)
            return
        github = GitHub(settings.github.api_url, lambda: credential)
        try:
            for repository in settings.repositories:
                wanted = await self._hook(settings, secrets, repository.name)
                self._tell(
                    settings, secrets, await registration.register(github, wanted)
                )
        finally:
            await github.close()

    async def _hook(self, settings: Settings, secrets: Secrets, repo: str) -> Wanted:
        named = settings.github.webhook_secret_file
        made_at = 0
        if named:
            made_at = int((await asyncio.to_thread(os.stat, named[0])).st_mtime * 1000)
        url = settings.github.public_webhook_url
        return Wanted(repo, url, secrets.webhook[0].decode(), made_at)

    def _tell(self, settings: Settings, secrets: Secrets, became: Registered) -> None:
        mark = DONE if became.changed else THERE
        for sentence in became.said:
            self._step(mark if became.good else LOOK, "webhook", sentence)
        if became.good and self.options.show_secret:
            self.say(f"    its secret: {secrets.webhook[0].decode()}")
        if not became.good:
            for line in registration.permission():
                self.say(f"    {line}")
            self.say("  or by hand:")
            self._click(settings, secrets)

    def _click(self, settings: Settings, secrets: Secrets) -> None:
        named = settings.github.webhook_secret_file
        lines = registration.by_hand(
            settings,
            str(named[0]) if named else "the service's credential webhook-secret",
            secrets.webhook[0].decode() if self.options.show_secret else "",
        )
        for line in lines:
            self.say(f"    {line}")

    def _next(self, settings: Settings) -> None:
        path = self.places.config
        option = "" if path == DEFAULT_PATH else f" --config {path}"
        if opening := ways.commands(settings):
            self.say("once, unless it is open already:")
            for command in opening:
                self.say(f"      {command}")
        self.say(f"next: build-server serve{option}")
        self.say(f"then: {settings.public_url}/setup shows what is still missing")

    def _step(self, mark: str, what: str, sentence: str) -> None:
        self.say(f"{mark} {what:<14} {sentence}")


def with_cache_question(options: Options, ask: Ask | None) -> Options:
    """Ask whether this machine is a binary cache, too."""
    if options.cache or ask is None:
        return options
    answer = ask("Make a signing key for a binary cache, too? (y/n)", "n")
    return replace(options, cache=answer.strip().lower().startswith("y"))
