"""What the command line says, and the terminal that can be asked, for `init`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ci.config.settings import documented_keys
from ci.errors import ConfigurationError
from ci.init.places import places
from ci.init.run import Init, with_cache_question
from ci.init.wishes import Options


def init(
    config: Path | None, given: Mapping[str, Any], environ: Mapping[str, str]
) -> int:
    """Run it with the options of the command line; the exit code."""
    there = places(config, given["state_dir"], environ, root=os.geteuid() == 0)
    asked = given["yes"] is False and sys.stdin.isatty() and sys.stdout.isatty()
    ask = _ask if asked and not there.config.exists() else None
    keys = _keys(given["keys"])
    if given["state_dir"] is not None:
        keys["state_dir"] = str(there.state_dir)
    names = ("repo", "branch", "public_url", "webhook_url", "token_file")
    flags = ("cache", "force", "show_secret")
    options = Options(**{name: given[name] for name in (*names, *flags)}, keys=keys)
    run = Init(
        options=with_cache_question(options, ask),
        places=there,
        environ=environ,
        folder=Path.cwd(),
        ask=ask,
        say=click.echo,
        colour=sys.stdout.isatty() and not environ.get("NO_COLOR"),
    )
    return run.run()


def _ask(words: str, usual: str) -> str:
    return str(click.prompt(words, default=usual, show_default=bool(usual)))


def _keys(given: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE`, for keys that hold text; raises ConfigurationError for others."""
    known = {
        path for path, field in documented_keys() if isinstance(field.default, str)
    }
    found: dict[str, str] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or key not in known:
            raise ConfigurationError(
                [f"--set {key}: KEY=VALUE is wanted, with a KEY that holds text"]
            )
        found[key] = value
    return found
