"""Where the server is, and with which token it is asked.

The first of: `--server`, BUILD_SERVER_URL, `$XDG_CONFIG_HOME/build-server/client.toml`,
`/etc/build-server/client.toml`, and the name that MagicDNS gives the builder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from ci.client.exits import Exit, Failure
from ci.client.text import printable

DEFAULT = "http://build-server:8000"
DEFAULT_PORT = 8000
SYSTEM_FILE = "/etc/build-server/client.toml"
TOKEN_VARIABLE = "BUILD_SERVER_TOKEN_FILE"  # noqa: S105 - the name of a variable
MAX_TOKEN = 4096

_PORTS = {"http": 80, "https": 443}


class Address:
    """One server: `host` and `port` under `scheme`, or the `socket` of a local one.

    `url` is how people write it, `source` where it was written; `prefix` is in front of
    every path.
    """

    def __init__(self, url: str, source: str) -> None:
        self.url = printable(url)
        self.source = source
        self.scheme, self.host, self.port, self.prefix = "http", "localhost", 0, ""
        self.socket = ""
        if url.startswith("unix:"):
            self.socket = url.removeprefix("unix:")
            if not self.socket.startswith("/") or "\0" in self.socket:
                raise self._unusable()
        else:
            self._read(url)

    def _read(self, url: str) -> None:
        if "://" not in url:
            url = f"http://{url}"
            if not re.search(r":[0-9]+/?$", url):
                url = f"{url.rstrip('/')}:{DEFAULT_PORT}"
            self.url = printable(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise self._unusable() from None
        clean = url.isprintable() and url.isascii() and " " not in url
        if parts.scheme not in _PORTS or not parts.hostname or not clean:
            raise self._unusable()
        if parts.username is not None or parts.query or parts.fragment:
            raise self._unusable()
        self.scheme, self.host = parts.scheme, parts.hostname
        self.port = port or _PORTS[parts.scheme]
        self.prefix = parts.path.rstrip("/")
        self.url = self.url.rstrip("/")

    def _unusable(self) -> Failure:
        return Failure(
            Exit.USAGE,
            f'"{self.url}" ({self.source}) is not a server; write e.g. {DEFAULT}, '
            "https://host/ or unix:/path",
        )


def find(flag: str | None, environ: Mapping[str, str]) -> Address:
    """The address to ask; raises Failure (usage) for one that cannot be."""
    if flag:
        return Address(flag, "--server")
    if environ.get("BUILD_SERVER_URL"):
        return Address(environ["BUILD_SERVER_URL"], "BUILD_SERVER_URL")
    for path in files(environ):
        server = _server_of(path)
        if server:
            return Address(server, path)
    return Address(DEFAULT, "default")


def files(environ: Mapping[str, str]) -> Iterator[str]:
    """The configuration files, the user's own first."""
    home = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(home):
        home = os.path.expanduser("~/.config")
    yield os.path.join(home, "build-server", "client.toml")
    yield SYSTEM_FILE


def _server_of(path: str) -> str | None:
    """The `server` of a client.toml; None when there is no such file or key."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(Exit.USAGE, f"{path}: {error.strerror}") from None
    import tomllib

    try:
        server = tomllib.loads(content.decode()).get("server")
    except ValueError as error:
        sentence = f"{path} is not TOML: {printable(str(error))}"
        raise Failure(Exit.USAGE, sentence) from None
    if server is not None and not isinstance(server, str):
        raise Failure(
            Exit.USAGE, f'{path}: server must be a string; write server = "{DEFAULT}"'
        )
    return server


def token(environ: Mapping[str, str]) -> str | None:
    """The bearer token, None without BUILD_SERVER_TOKEN_FILE; raises Failure (usage)."""
    path = environ.get(TOKEN_VARIABLE)
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            found = file.read(MAX_TOKEN + 1).strip()
    except OSError as error:
        sentence = f"{TOKEN_VARIABLE}={printable(path)}: {error.strerror}"
        raise Failure(Exit.USAGE, sentence) from None
    if not re.fullmatch(rb"[!-~]{1,%d}" % MAX_TOKEN, found):
        raise Failure(
            Exit.USAGE,
            f"{TOKEN_VARIABLE}={printable(path)} does not hold a token: one line of "
            f"visible ASCII, at most {MAX_TOKEN} characters",
        )
    return found.decode()
