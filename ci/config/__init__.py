"""Finding, reading and judging the configuration file, and the secrets it names.

All that is wrong is said at once, one line for each problem, in ConfigurationError. The
keys themselves are in ci/config/settings.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from ci.config.limits import BuildLimits, Cache, DiskLimits, Notify, Retention
from ci.config.problems import described
from ci.config.secret_files import (
    API_TOKEN_CREDENTIAL,
    APP_KEY_CREDENTIAL,
    NOTIFY_CREDENTIAL,
    TOKEN_CREDENTIAL,
    WEBHOOK_CREDENTIALS,
    Located,
    SecretReader,
    Secrets,
    addresses,
    long_word,
    private_key,
)
from ci.config.settings import Api, Github, Listen, Repository, Settings
from ci.config.units import Address
from ci.errors import ConfigurationError
from ci.text import printable, quoted

__all__ = [
    "DEFAULT_PATH",
    "Address",
    "Api",
    "BuildLimits",
    "Cache",
    "DiskLimits",
    "Github",
    "Listen",
    "Notify",
    "Repository",
    "Retention",
    "Secrets",
    "Settings",
    "config_path",
    "load",
    "parse",
    "read_secrets",
    "secret_paths",
]

DEFAULT_PATH = Path("/etc/build-server/config.toml")

_TOML_PLACE = re.compile(r"(.*) \(at line (\d+), column (\d+)\)", re.DOTALL)


def config_path(option: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Which file to read: `--config`, BUILD_SERVER_CONFIG, else /etc/build-server."""
    return Path(option or environ.get("BUILD_SERVER_CONFIG") or DEFAULT_PATH)


def load(path: Path, *, environ: Mapping[str, str], secrets: bool = True) -> Settings:
    """The settings in the file at `path`.

    `secrets=False` leaves the secret files alone: for judging a file on a machine that
    does not hold them. Raises ConfigurationError with every problem at once.
    """
    document = _document(path)
    settings, problems = _validated(document)
    if secrets:
        problems += _secret_problems(document, environ)
    if settings is None or problems:
        raise ConfigurationError(problems)
    return settings


def parse(document: Mapping[str, object]) -> Settings:
    """The settings of a TOML document that was read already; touches no file."""
    settings, problems = _validated(document)
    if settings is None:
        raise ConfigurationError(problems)
    return settings


def read_secrets(settings: Settings, environ: Mapping[str, str]) -> Secrets:
    """The secrets in their files now; ConfigurationError when one is unfit."""
    reader = SecretReader(environ)
    secrets = _read(reader, settings.github, settings.api, settings.notify)
    if reader.problems:
        raise ConfigurationError(reader.problems)
    return secrets


def secret_paths(settings: Settings, environ: Mapping[str, str]) -> list[Located]:
    """Every secret file that `read_secrets` would read."""
    reader = SecretReader(environ)
    return [
        file
        for files in _files(
            reader, settings.github, settings.api, settings.notify
        ).values()
        for file in files
    ]


def _document(path: Path) -> dict[str, object]:
    problem = f"{path} does not hold UTF-8 text"
    try:
        # Editors on Windows put a byte order mark in front, which TOML does not know.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        problem = (
            f"{path} does not exist; `build-server init` writes one, or name "
            "another with --config or BUILD_SERVER_CONFIG"
        )
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
    except tomllib.TOMLDecodeError as error:
        problem = f"{path} is not TOML: {_toml_problem(str(error))}"
    except UnicodeDecodeError as error:
        problem = f"{path} is not UTF-8 text (byte {error.start})"
    # Outside the handlers: no error that may carry the document is left as its context.
    raise ConfigurationError([problem])


def _toml_problem(message: str) -> str:
    match = _TOML_PLACE.fullmatch(message)
    if match is None:
        return printable(message)
    return f"line {match[2]}, column {match[3]}: {printable(match[1])}"


def _validated(document: Mapping[str, object]) -> tuple[Settings | None, list[str]]:
    settings = None
    problems: list[str] = []
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        problems = described(error)
    problems += _named_twice(document.get("repository"))
    return (None if problems else settings), problems


def _named_twice(repositories: object) -> Iterable[str]:
    """Two repositories of one name, as GitHub compares names: case does not count."""
    seen: dict[str, int] = {}
    for number, table in enumerate(_list(repositories)):
        name = table.get("name") if isinstance(table, Mapping) else None
        if isinstance(name, str):
            first = seen.setdefault(name.lower(), number)
            if first != number:
                yield (
                    f"repository[{number}].name: {quoted(name)} is used twice (first "
                    f"by repository[{first}]); write each repository once, with all "
                    "its branches"
                )


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []


def _secret_problems(
    document: Mapping[str, object], environ: Mapping[str, str]
) -> list[str]:
    """What is wrong with the secret files, even where other tables are wrong too."""
    try:
        github = Github.model_validate(document.get("github", {}))
        api = Api.model_validate(document.get("api", {}))
        notify = Notify.model_validate(document.get("notify", {}))
    except ValidationError:
        return []  # said already
    reader = SecretReader(environ)
    _read(reader, github, api, notify)
    return reader.problems


def _files(
    reader: SecretReader, github: Github, api: Api, notify: Notify
) -> dict[str, list[Located]]:
    def one(key: str, path: Path | None, credential: str) -> list[Located]:
        return reader.locate(key, [path] if path else [], [credential])

    return {
        "webhook": reader.locate(
            "github.webhook_secret_file",
            github.webhook_secret_file,
            WEBHOOK_CREDENTIALS,
        ),
        "token": []
        if github.app_id
        else one("github.token_file", github.token_file, TOKEN_CREDENTIAL),
        "app": one("github.app_key_file", github.app_key_file, APP_KEY_CREDENTIAL)
        if github.app_id
        else [],
        "api": one("api.token_file", api.token_file, API_TOKEN_CREDENTIAL),
        "notify": one("notify.urls_file", notify.urls_file, NOTIFY_CREDENTIAL),
    }


def _read(reader: SecretReader, github: Github, api: Api, notify: Notify) -> Secrets:
    files = _files(reader, github, api, notify)
    if github.webhook and not files["webhook"]:
        reader.problems.append(
            "github.webhook_secret_file: webhook = true needs a secret; name its file "
            f'here, pass the credential "{WEBHOOK_CREDENTIALS[0]}", or write '
            "webhook = false to look for commits every reconcile_every instead"
        )
    if github.app_id and not files["app"]:
        reader.problems.append(
            "github.app_key_file: github.app_id needs the App's private key; name its "
            f'file here, or pass the credential "{APP_KEY_CREDENTIAL}"'
        )
    webhook = [reader.read(file, long_word) for file in files["webhook"]]
    token = [reader.read(file, long_word) for file in files["token"]]
    app_key = [reader.read(file, private_key) for file in files["app"]]
    api_token = [reader.read(file, long_word) for file in files["api"]]
    urls = [reader.read(file, addresses) for file in files["notify"]]
    return Secrets(
        webhook=tuple(secret.encode() for secret in webhook if secret),
        github_token=next(iter(token), None),
        app_key=next(iter(app_key), None),
        api_token=next(iter(api_token), None),
        notify_urls=next(iter(urls), None),
    )
