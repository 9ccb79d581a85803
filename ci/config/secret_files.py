"""Secrets: only ever in files, read on demand, never printed.

A secret comes from the file that the configuration names, or else from the systemd
credential of that name in `$CREDENTIALS_DIRECTORY` (systemd.exec(5), LoadCredential=).
Contents are stripped of white space at both ends. No message repeats any of it, and a
path only where it cannot be a secret put in the wrong place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

SHORTEST = 16
LARGEST_FILE = 64 * 1024

WEBHOOK_CREDENTIALS = ("webhook-secret", "webhook-secret-2")
TOKEN_CREDENTIAL = "github-token"  # noqa: S105 (the name of a file)
APP_KEY_CREDENTIAL = "github-app-key"
API_TOKEN_CREDENTIAL = "api-token"  # noqa: S105 (the name of a file)
NOTIFY_CREDENTIAL = "notify-urls"

# What follows the scheme of a URL; anywhere in it may be a token or a password.
_ADDRESS = re.compile(r"://([^\s\"']{4,})")
_WORD = re.compile(r"[!-~]+")


@dataclass(frozen=True, repr=False)
class Secrets:
    """What the secret files held; its repr says only which of them are there."""

    webhook: tuple[bytes, ...] = ()
    github_token: str | None = None
    app_key: str | None = None
    api_token: str | None = None
    notify_urls: str | None = None

    def __repr__(self) -> str:
        there = [field.name for field in fields(self) if getattr(self, field.name)]
        return f"<Secrets: {', '.join(there) or 'none'}>"

    def values(self) -> tuple[str, ...]:
        """Every secret as text, for whoever must keep them out of something."""
        webhook = [secret.decode() for secret in self.webhook]
        single = (self.github_token, self.app_key, self.api_token)
        urls = _ADDRESS.findall(self.notify_urls or "")
        return (*webhook, *(value for value in single if value), *urls)


@dataclass(frozen=True)
class Located:
    """One secret file: the key it belongs to, where it is, how to call it."""

    key: str
    path: Path
    shown: str


@dataclass
class SecretReader:
    """Finds and reads secret files; collects what is wrong instead of stopping."""

    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def locate(
        self, key: str, paths: Sequence[Path], credentials: Sequence[str]
    ) -> list[Located]:
        """The files that `key` names, or else the credentials that exist."""
        if paths:
            return [Located(key, path, _shown(path)) for path in paths]
        directory = self.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            return []
        return [
            Located(key, Path(directory, name), f"credential {name}")
            for name in credentials
            if Path(directory, name).exists()
        ]

    def read(self, file: Located, check: Callable[[str], str]) -> str | None:
        """The content as `check` returns it; None and one more problem when unfit."""
        try:
            return check(_content(file.path))
        except FileNotFoundError:
            problem = "does not exist; " + _how_to_make(file)
        except OSError as error:
            problem = (
                f"cannot be read ({error.strerror}); it must be a file that the "
                "service's user may read"
            )
        except ValueError as error:
            problem = f"{error}; {_how_to_make(file)}"
        self.problems.append(f"{file.key}: {file.shown} {problem}")
        return None


def _content(path: Path) -> str:
    with path.open("rb") as stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError("is too large to be a secret")
    # Not strict: UnicodeDecodeError would carry the content with it.
    return content.decode(errors="replace").strip()


def word(text: str) -> str:
    """A secret of one line of ASCII without spaces."""
    if not text:
        raise ValueError("is empty")
    if not _WORD.fullmatch(text):
        raise ValueError(
            "must hold the secret alone: one line of ASCII without spaces, and no "
            "NAME= before it"
        )
    return text


def long_word(text: str) -> str:
    """A secret that we chose ourselves: long enough that nobody guesses it."""
    if 0 < len(text) < SHORTEST:
        raise ValueError(
            f"holds {len(text)} characters, too few for a secret ({SHORTEST} at least)"
        )
    return word(text)


def addresses(text: str) -> str:
    """URLs of Apprise, or a configuration of it; which of them are fit it says itself."""
    if not text:
        raise ValueError("is empty")
    if not _ADDRESS.search(text):
        raise ValueError("holds no URL of Apprise, such as ntfy://TOPIC")
    return text


def private_key(text: str) -> str:
    """A private key in PEM form."""
    if not text:
        raise ValueError("is empty")
    if not text.startswith("-----BEGIN ") or "PRIVATE KEY-----" not in text:
        raise ValueError("is not a private key in PEM form")
    return text + "\n"


def _shown(path: Path) -> str:
    """The path, unless it may be a secret that stands where its path should.

    A base64 secret can begin with a slash; only of a real path does the first folder
    exist.
    """
    known = len(path.parts) > 2 and Path("/", path.parts[1]).is_dir()
    return str(path) if known else "the file named there"


def _how_to_make(file: Located) -> str:
    if file.key == "github.token_file":
        return "put the token there that GitHub showed"
    if file.key == "github.app_key_file":
        return "put the file there that the App's settings page lets you download"
    if file.key == "notify.urls_file":
        return "write one URL of Apprise per line into it, such as ntfy://TOPIC"
    where = file.shown if file.shown.startswith("/") else "FILE"
    return f"create it with (umask 077; head -c 24 /dev/urandom | base64 > {where})"
