"""What is wanted of the configuration: options, answers, guesses, in this order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic_core import PydanticUndefined

from ci.config.settings import documented_keys
from ci.config.units import is_loopback
from ci.errors import ConfigurationError
from ci.init import guess
from ci.init.document import REPOSITORY, Value
from ci.init.files import InitError
from ci.init.places import Places

# A question: its words, and the answer that Enter gives.
Ask = Callable[[str, str], str]

PRIVATE_PORT = "8000"


@dataclass(frozen=True)
class Options:
    """What the command line says; None or False: nothing."""

    repo: str | None = None
    branch: str | None = None
    public_url: str | None = None
    webhook_url: str | None = None
    token_file: Path | None = None
    cache: bool = False
    force: bool = False
    show_secret: bool = False
    # For what is not usual: other keys of the configuration, as given.
    keys: Mapping[str, str] = field(default_factory=dict)


def asked_for(options: Options) -> dict[str, Value]:
    """The keys of the configuration that the options name."""
    named: dict[str, Value | None] = {
        "repository.name": options.repo,
        "repository.branches": [options.branch] if options.branch else None,
        "public_url": options.public_url,
        "github.public_webhook_url": options.webhook_url,
        "github.token_file": _absolute(options.token_file),
        **options.keys,
    }
    return {path: value for path, value in named.items() if value is not None}


def complete(
    options: Options,
    places: Places,
    environ: Mapping[str, str],
    folder: Path,
    ask: Ask | None,
) -> dict[str, Value]:
    """All that a new file says. Raises ConfigurationError naming what nobody told."""
    values = asked_for(options)
    name = guess.tailnet_name(environ)
    repo = guess.repository(folder, environ)
    guesses = {
        "repository.name": repo or "",
        "repository.branches": "dev",
        "public_url": f"http://{name or guess.host_name()}:{_port(values)}",
        "github.public_webhook_url": f"https://{name}/webhook" if name else "",
        "github.token_file": str(places.token) if places.token.exists() else "",
    }
    for path, usual in guesses.items():
        if path in values:
            continue
        answer = ask(QUESTIONS[path], usual).strip() if ask else usual
        if answer:
            values[path] = [answer] if path == "repository.branches" else answer
    if "repository.name" not in values:
        raise ConfigurationError(
            [
                "--repo OWNER/NAME is missing: this is no checkout of a repository on "
                "GitHub, and there is no terminal to ask at"
            ]
        )
    if name and urlsplit(str(values["public_url"])).hostname == name:
        # MagicDNS knows the machine by its first label, too, and so do its people.
        values["allowed_hosts"] = [name.partition(".")[0]]
    values["state_dir"] = str(places.state_dir)
    values["github.webhook_secret_file"] = str(places.webhook_secret)
    return values


QUESTIONS: Mapping[str, str] = {
    "repository.name": "Repository on GitHub (owner/name)",
    "repository.branches": "Branch to build",
    "public_url": "Address of the pages, as your machines open them",
    "github.public_webhook_url": "Address of the webhook as GitHub reaches it "
    "(empty: look for commits instead)",
    "github.token_file": "File with a GitHub token (empty: later)",
}


def _port(values: Mapping[str, Value]) -> str:
    """Of the private listener."""
    return str(values.get("listen.private", "")).rpartition(":")[2] or PRIVATE_PORT


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().absolute())


def cache_name(public_url: str) -> str:
    """The name of the cache's key: this machine's, and a number for the next one."""
    host = urlsplit(public_url).hostname or ""
    name = guess.host_name() if is_loopback(host) or not host else host
    return f"{name}-1"


def written(document: Mapping[str, Any]) -> dict[str, Value]:
    """What a file says, by path: `render` writes the same again.

    Raises InitError for more than one repository: `init` writes one.
    """
    found: dict[str, Value] = {}
    for name, value in document.items():
        if name == REPOSITORY:
            if len(value) > 1:
                raise InitError(
                    f"the file has {len(value)} repositories; `init` writes files with "
                    "one: change it by hand"
                )
            value = value[0]
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def differences(wanted: Mapping[str, Value], there: Mapping[str, Value]) -> list[str]:
    """What is asked for otherwise than the file that is there says it."""
    defaults = {path: field.default for path, field in documented_keys()}
    found = []
    for path, value in wanted.items():
        old, new = _shown(there.get(path, defaults.get(path))), _shown(value)
        if old != new:
            found.append(f"{path}: there it is {old or 'not set'}, asked for is {new}")
    return found


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value in (None, PydanticUndefined) else str(value).rstrip("/")
