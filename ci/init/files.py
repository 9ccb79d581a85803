"""Files that are made once, whole or not at all, and never overwritten by accident."""

from __future__ import annotations

import base64
import os
import secrets as randomness
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ci.config.names import public_key
from ci.errors import BuildServerError

SECRET_BYTES = 32
SEED_BYTES = 32


class InitError(BuildServerError):
    """Something in the way that a person must look at."""


@dataclass(frozen=True)
class CacheKey:
    """Nix's pair: `public` is what clients trust, `NAME:BASE64`."""

    public: str
    made: bool


def make_folder(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """The folder at `path`, for us alone where `mode` says so; one that is there stays."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=mode, exist_ok=True)
        if owner is not None:
            os.chown(path, *owner)
    except OSError as error:
        raise InitError(f"{path} cannot be made: {error.strerror}") from error


def make_file(
    path: Path, content: str, mode: int, owner: tuple[int, int] | None = None
) -> bool:
    """Make the file with all of its content at once; False when there is one already.

    A link gives it its name: it fails where a file is, and nobody ever sees half of it.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        _write(fresh, content, mode, owner)
        try:
            os.link(fresh, path)
        except FileExistsError:
            return False
        finally:
            fresh.unlink()
    except OSError as error:
        raise InitError(f"{path} cannot be written: {error.strerror}") from error
    return True


def replace_file(path: Path, content: str, mode: int) -> Path:
    """Put new content in place; the old file stays beside it, under the name returned."""
    kept = next(
        name
        for number in range(1, 10_000)
        if not (name := path.with_name(f"{path.name}.{number}")).exists()
    )
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        _write(fresh, content, mode, None)
        os.link(path, kept)
        fresh.replace(path)
    except OSError as error:
        raise InitError(f"{path} cannot be written: {error.strerror}") from error
    return kept


def _write(path: Path, content: str, mode: int, owner: tuple[int, int] | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
        stream.flush()
        if owner is not None:
            os.fchown(stream.fileno(), *owner)
        os.fsync(stream.fileno())


def webhook_secret() -> str:
    """A new secret, in hex."""
    return randomness.token_hex(SECRET_BYTES)


def make_cache_key(path: Path, name: str, owner: tuple[int, int] | None) -> CacheKey:
    """The signing key in `path`, made when there is none, and its public half.

    Both as Nix writes them (nix-store --generate-binary-cache-key): the secret is seed
    and public key, 64 bytes in base64.
    """
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    secret = _named(name, key.private_bytes_raw() + public)
    if make_file(path, secret, 0o600, owner):
        return CacheKey(_named(name, public), made=True)
    return CacheKey(_public_of(path), made=False)


def _public_of(path: Path) -> str:
    try:
        name, _, encoded = path.read_text(encoding="ascii").strip().partition(":")
        seed = base64.b64decode(encoded, validate=True)[:SEED_BYTES]
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        return public_key(_named(name, public.public_bytes_raw()))
    except OSError as error:
        raise InitError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        # Outside its message: the error may carry a part of the key.
        problem = f"{path} is not a signing key of Nix: move it away"
    raise InitError(problem)


def _named(name: str, raw: bytes) -> str:
    return f"{name}:{base64.b64encode(raw).decode()}"
