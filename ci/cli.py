"""build-server: the program of the machine that builds."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from ci import __version__, config
from ci.errors import (
    BuildServerError,
    ConfigurationError,
    HistoryCorrupt,
    HistoryTooNew,
)
from ci.models import Check

P = ParamSpec("P")
T = TypeVar("T")


def _config_option(command: Callable[P, T]) -> Callable[P, T]:
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration file [BUILD_SERVER_CONFIG, /etc/build-server/config.toml].",
    )(command)


def _sentences(command: Callable[P, T]) -> Callable[P, T]:
    """Errors raised on purpose are sentences for a person.

    Exit 2 for the configuration, 3 for a history that must not be used as it is: to start
    again would change nothing. 1 for all others.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except ConfigurationError as error:
            for problem in error.problems:
                click.echo(f"build-server: {problem}", err=True)
            sys.exit(2)
        except (HistoryCorrupt, HistoryTooNew) as error:
            click.echo(f"build-server: {error}", err=True)
            sys.exit(3)
        except BuildServerError as error:
            click.echo(f"build-server: {error}", err=True)
            sys.exit(1)
        except sqlite3.Error as error:
            click.echo(f"build-server: the history cannot be used: {error}", err=True)
            sys.exit(1)

    return wrapped


def _load(path: Path | None) -> tuple[config.Settings, config.Secrets]:
    settings = config.load(config.config_path(path, os.environ), environ=os.environ)
    return settings, config.read_secrets(settings, os.environ)


def _without_secrets(path: Path | None) -> config.Settings:
    """For what needs none: as run by hand, systemd's credentials are not there."""
    file = config.config_path(path, os.environ)
    return config.load(file, environ=os.environ, secrets=False)


@click.group()
@click.version_option(__version__, prog_name="build-server")
def main() -> None:
    """A push-driven CI builder for Nix flakes."""


@main.command()
@_config_option
@_sentences
def serve(path: Path | None) -> None:
    """Accept pushes, build them, post statuses, answer the machines."""
    from ci import app, log

    settings, secrets = _load(path)
    log.setup(sys.stderr, os.environ, secrets)
    file = config.config_path(path, os.environ)
    sys.exit(asyncio.run(app.serve(settings, secrets, os.environ, file)))


@main.command()
@_config_option
@click.option(
    "--without-secrets",
    is_flag=True,
    help="Judge the file alone, on a machine that has no secrets.",
)
@_sentences
def check_config(path: Path | None, without_secrets: bool) -> None:
    """Say what is wrong with the configuration, one line each."""
    file = config.config_path(path, os.environ)
    settings = config.load(file, environ=os.environ, secrets=not without_secrets)
    count = len(settings.repositories)
    click.echo(f"{file}: good, {count} repositor{'y' if count == 1 else 'ies'}")
    if not without_secrets and config.read_secrets(settings, os.environ).notify_urls:
        from ci.adapters import apprise

        if not apprise.installed():
            click.echo(f"notify: Apprise is not installed; {apprise.INSTALL}", err=True)


@main.command()
@_config_option
@_sentences
def migrate(path: Path | None) -> None:
    """Bring the history up to date now; `serve` does it too, when it starts."""
    from ci.adapters.host import lock_state_dir
    from ci.history.database import Database
    from ci.history.paths import database_path
    from ci.history.schema import version

    settings = _without_secrets(path)

    async def work() -> int:
        database = await Database.open(database_path(settings.state_dir))
        try:
            return await database.read(version)
        finally:
            await database.close()

    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_state_dir(settings.state_dir):
        click.echo(f"the history has schema {asyncio.run(work())}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_config_option
@_sentences
def backup(file: Path, path: Path | None) -> None:
    """Write a consistent copy of the history to FILE, also while the server runs."""
    from ci.history.copies import copy_database
    from ci.history.paths import database_path

    settings = _without_secrets(path)
    copy_database(database_path(settings.state_dir), file)
    click.echo(f"{file}: {file.stat().st_size} bytes; restore it as history.db")


@main.command()
@_config_option
@_sentences
def doctor(path: Path | None) -> None:
    """Check everything that can be wrong, and say how to mend it."""
    from ci import doctor as surgery

    settings = _without_secrets(path)
    unread: tuple[str, ...] = ()
    secrets = config.Secrets()
    try:
        secrets = config.read_secrets(settings, os.environ)
    except ConfigurationError as error:
        unread = error.problems
    checks = asyncio.run(surgery.checks(settings, secrets, os.environ))
    checks += [Check("secrets", False, problem) for problem in unread]
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(surgery.render(checks, colour=colour))
    sys.exit(0 if all(check.ok for check in checks) else 1)


@main.command()
@_config_option
@click.option("--repo", help="owner/name on GitHub [that of the checkout's origin].")
@click.option("--branch", help="The branch to build [dev].")
@click.option("--public-url", help="Address of the pages [by the tailnet's name].")
@click.option("--webhook-url", help="Address of the webhook, as GitHub reaches it.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with a GitHub token; it registers the webhook, if it may.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything is kept.",
)
@click.option("--cache", is_flag=True, help="Make the signing key of a binary cache.")
@click.option(
    "--set",
    "keys",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other key, such as listen.private=127.0.0.1:9000.",
)
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--force", is_flag=True, help="Write a configuration that is there anew.")
@click.option("--show-secret", is_flag=True, help="Print the webhook's secret.")
@_sentences
def init(path: Path | None, **given: Any) -> None:
    """Write a configuration, make the secrets, register the webhook, then look at it all."""
    from ci.init.command import init as set_up

    sys.exit(set_up(path, given, os.environ))


@main.command()
@_config_option
@click.option("--test", is_flag=True, help="Send a test message to each of them.")
@_sentences
def notify(path: Path | None, test: bool) -> None:
    """Try the addresses that messages go to, and say which of them work."""
    from ci.adapters import apprise
    from ci.report.wording import trial

    if not test:
        raise click.UsageError("say --test to send a message to every address")
    settings, secrets = _load(path)
    if secrets.notify_urls is None:
        raise ConfigurationError(
            ["notify.urls_file: nobody is told of anything; name a file with addresses"]
        )
    message = trial(settings.public_url)
    tried = asyncio.run(apprise.send(secrets.notify_urls, message, env=os.environ))
    for each in tried:
        click.echo(f"{each.service}: {'sent' if each.sent else each.error}")
    sys.exit(0 if all(each.sent for each in tried) else 1)


@main.command()
@click.option("--once", is_flag=True, help="End when the three builds have ended.")
@click.option(
    "--port",
    default=8000,
    help="Port of the private address; another one is taken when it is in use.",
)
@_sentences
def demo(once: bool, port: int) -> None:
    """Show it: a sample flake, three signed pushes, builds, statuses. No set-up."""
    from ci.demo.show import demo as show

    # Ended from outside it cleans up as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(asyncio.run(show(once=once, port=port, environ=os.environ)))
    except KeyboardInterrupt:
        sys.exit(130)
