"""What a person writes for a duration, a size, an address or a URL, and what it means.

Every function takes a value as TOML gives it and raises ValueError with a sentence that
says what is wrong and what to write instead; the key is put in front by ci/config.py.
A value that may hold a secret (a URL with a password in it) is never repeated.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, urlsplit

from ci.text import quoted

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhd])\s*")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_LONGEST = 365 * 86400.0

_BYTES = {"b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")
_LARGEST = 2**63 - 1

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_SCP = re.compile(r"([A-Za-z0-9._-]+)@([^:/@\s]+):([^-\s][^\s]*)")

# The kernel's sockaddr_un holds 108 bytes, the last one NUL.
_UNIX_PATH_BYTES = 107


def duration(value: object) -> float:
    """Seconds of `"1h30m"`, `"20m"`, `"500ms"`; a plain number is seconds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and _DURATION.fullmatch(value.strip()):
        parts = _DURATION_PART.findall(value)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        raise ValueError(f'{quoted(value)} is not a duration; write e.g. "20m" or "2h"')
    if not 0 < seconds <= _LONGEST or math.isnan(seconds):
        raise ValueError(
            f"{quoted(value)} must be more than nothing and at most 365 days; "
            'write e.g. "20m" or "2h"'
        )
    return seconds


def size(value: object) -> int:
    """Bytes of `"64MiB"`, `"10MB"`, `"512KiB"`; a plain whole number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        amount = float(value)
    else:
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        factor = _BYTES.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise ValueError(
                f'{quoted(value)} is not a size; write e.g. "64MiB" or "4GiB"'
            )
        amount = float(match[1]) * factor
    if not 1 <= amount <= _LARGEST:
        raise ValueError(
            f'{quoted(value)} is not a usable size; write e.g. "64MiB" or "4GiB"'
        )
    return round(amount)


@dataclass(frozen=True)
class Address:
    """Where to listen: `host` and `port`, or the `path` of a unix socket.

    Port 0 lets the kernel choose one.
    """

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address(value: object) -> Address:
    """`"127.0.0.1:8010"`, `"[::1]:8010"` or `"unix:/run/build-server/public"`."""
    problem = ValueError(
        f'{quoted(value)} is not an address; write e.g. "127.0.0.1:8010", '
        '"[::1]:8010" or "unix:/run/build-server/public.sock"'
    )
    if not isinstance(value, str):
        raise problem
    if value.startswith("unix:"):
        return _unix_address(value.removeprefix("unix:"), problem)
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise problem
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ipv6(host):
            raise problem
    elif not _HOST.fullmatch(host):
        raise problem
    return Address(host=host, port=int(port))


def resolver(value: object) -> Address:
    """A DNS server: `"1.1.1.1"`, `"127.0.0.1:5353"`, `"2606:4700:4700::1111"`."""
    if isinstance(value, str):
        host, colon, _ = value.rpartition(":")
        if colon and ":" not in host.removeprefix("[").removesuffix("]"):
            found = address(value)
        else:
            found = Address(host=value.removeprefix("[").removesuffix("]"), port=53)
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(found.host)
            return found
    raise ValueError(
        f'{quoted(value)} is not the address of a DNS server; write e.g. "1.1.1.1"'
    )


def _unix_address(path: str, problem: ValueError) -> Address:
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise problem
    if len(path.encode()) > _UNIX_PATH_BYTES:
        raise ValueError(
            f"the path of a unix socket has at most {_UNIX_PATH_BYTES} bytes, this one "
            f"{len(path.encode())}; choose a shorter one, e.g. below /run"
        )
    return Address(path=Path(path))


def host_name(value: object) -> str:
    """A host as the Host header carries it, with or without port, in lower case."""
    if isinstance(value, str):
        bare = re.sub(r":[0-9]{1,5}$", "", value)
        bracketed = bare.startswith("[") and bare.endswith("]")
        if _HOST.fullmatch(bare) or (bracketed and _is_ipv6(bare[1:-1])):
            return value.lower()
    raise ValueError(
        f'{quoted(value)} is not a host name; write e.g. "ci.example.ts.net" '
        "(no scheme, no path, no pattern)"
    )


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address without brackets) is this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def web_url(value: object, *, example: str, plain_http: bool = False) -> str:
    """An http(s) URL without last slash; http is for loopback unless `plain_http`."""
    parts = _split(value, example)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"must be an http or https URL; write e.g. {quoted(example)}")
    if parts.scheme == "http" and not plain_http and not is_loopback(parts.hostname):
        raise ValueError(
            f"http would be readable on the way; write e.g. {quoted(example)} "
            "(http is for this machine only)"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(
            "must hold neither a password nor '?' nor '#'; "
            f"write e.g. {quoted(example)}"
        )
    return parts.geturl().rstrip("/")


def _split(value: object, example: str) -> SplitResult:
    """The parts of a URL; refuses what no part of a URL may hold."""
    problem = ValueError(f"is not a URL; write e.g. {quoted(example)}")
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise problem
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise problem from None
    if port == 0 or (host and not _HOST.fullmatch(host) and not _is_ipv6(host)):
        raise problem
    return parts


def repository_url(value: str) -> str:
    """A URL that git fetches from: https, ssh, `git@host:path`, file or a path."""
    example = "https://github.com/owner/name.git"
    problem = ValueError(
        f"git cannot be pointed there; write e.g. {quoted(example)}, "
        '"ssh://git@host/path", "git@host:path", "file:///path" or "/path"'
    )
    if not value.isprintable() or " " in value or value.startswith("-"):
        raise problem
    if value.startswith("/"):
        return value
    if "://" not in value:
        match = _SCP.fullmatch(value)
        if match is None or not _HOST.fullmatch(match[2]):
            raise problem
        return value
    parts = _split(value, example)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return value
    if parts.scheme not in ("https", "ssh") or not parts.hostname:
        raise problem
    if parts.password is not None or (parts.scheme == "https" and parts.username):
        raise ValueError(
            "a URL must not hold a credential; take it out and name its file in "
            "github.token_file"
        )
    return value


def folder(value: str) -> str:
    """A folder inside a repository, normalised: `"."`, `"nix"`, `"a/b"`."""
    path = PurePosixPath(posixpath.normpath(value or "."))
    odd = not value.isprintable() or any(char in value for char in "?#&%\\")
    if path.is_absolute() or ".." in path.parts or odd:
        raise ValueError(
            f"{quoted(value)} is not a folder inside the repository; "
            'write e.g. "." or "nix"'
        )
    return str(path)


def program(value: str) -> str:
    """A program by name (looked for on PATH) or by absolute path."""
    by_name = "/" not in value and not value.startswith("-")
    if not value.isprintable() or not value or not (by_name or value.startswith("/")):
        raise ValueError(
            f'{quoted(value)} is not a program; write e.g. "nix" or "/usr/bin/nix"'
        )
    return value
