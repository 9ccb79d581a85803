"""Asking a binary cache, Harmonia or any other, whether clients can fetch a path.

A path can be fetched when its narinfo is there and carries a signature that the key of
the clients accepts. The narinfo format and its fingerprint are those of Nix
(src/libstore/nar-info.cc and path-info.cc, `ValidPathInfo::fingerprint`):
`1;STORE PATH;NAR HASH;NAR SIZE;REFERENCES`, signed with ed25519.

What comes back is never trusted: no redirect, a time limit, a size limit.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import aiohttp

from ci.text import printable

LARGEST_ANSWER = 1024 * 1024
PARALLEL = 8

# 32 characters of Nix' own base 32, then a name.
_STORE_NAME = re.compile(r"([0-9a-df-np-sv-z]{32})-[0-9A-Za-z+._?=-]+")
_NAR_HASH = re.compile(r"sha256:[0-9a-df-np-sv-z]{52}")

Verify = Callable[[bytes, bytes], bool]


@dataclass(frozen=True)
class NarInfo:
    """What a cache says about one store path; `references` are full paths, sorted."""

    store_path: str
    url: str
    nar_hash: str
    nar_size: int
    references: tuple[str, ...]
    signatures: tuple[tuple[str, bytes], ...]

    def fingerprint(self) -> bytes:
        """The text that signatures are made over."""
        references = ",".join(self.references)
        size = str(self.nar_size)
        return ";".join(
            ("1", self.store_path, self.nar_hash, size, references)
        ).encode()


class _NoAnswer(Exception):
    """The cache could not be asked; the text says why."""


class _Silent(_NoAnswer):
    """Nothing came back in time: asking for the next path would only wait again."""


async def cache_running(url: str, *, timeout: float = 3.0) -> bool:  # noqa: ASYNC109
    """Whether a binary cache answers at `url`: /nix-cache-info with a StoreDir line."""
    async with _session(timeout) as session:
        try:
            return await _is_cache(session, url)
        except _NoAnswer:
            return False


async def fetchable(
    store_paths: Iterable[str],
    url: str,
    public_key: str,
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 (seconds for each request)
) -> dict[str, str | None]:
    """For each path None when a client can fetch it, else why not, in a sentence.

    `public_key` is `NAME:BASE64`, as in trusted-public-keys. Takes at most three times
    `timeout`, however many paths there are.
    """
    paths = list(dict.fromkeys(store_paths))
    if not paths:
        return {}
    # cryptography is large and slow to load: only where a cache is asked, and not in
    # the event loop.
    name, verify = await asyncio.to_thread(verifier, public_key)
    gate = asyncio.Semaphore(PARALLEL)
    silence: list[str] = []

    async def reason(session: aiohttp.ClientSession, path: str) -> str | None:
        async with gate:
            if silence:
                return silence[0]
            try:
                body = await _narinfo(session, url, path)
            except _NoAnswer as error:
                if isinstance(error, _Silent):
                    silence.append(str(error))
                return str(error)
            return unfetchable(body, path, name, verify)

    async with _session(timeout) as session:
        try:
            if not await _is_cache(session, url):
                return dict.fromkeys(paths, f"{url} is not a binary cache")
        except _NoAnswer as error:
            # One wait for all of them, not one for each.
            return dict.fromkeys(paths, str(error))
        reasons = await asyncio.gather(*(reason(session, path) for path in paths))
    return dict(zip(paths, reasons, strict=True))


async def _is_cache(session: aiohttp.ClientSession, url: str) -> bool:
    status, body = await _get(session, f"{url}/nix-cache-info")
    lines = body.decode(errors="replace").splitlines()
    return status == 200 and any(line.startswith("StoreDir:") for line in lines)


async def _narinfo(session: aiohttp.ClientSession, url: str, path: str) -> bytes:
    match = _STORE_NAME.fullmatch(PurePosixPath(path).name)
    if match is None:
        raise _NoAnswer(f"{printable(path)} is not a store path")
    status, body = await _get(session, f"{url}/{match[1]}.narinfo")
    if status == 404:
        raise _NoAnswer(f"{url} does not have it")
    if status != 200:
        raise _NoAnswer(f"{url} answered {status} for its narinfo")
    return body


def unfetchable(body: bytes, path: str, name: str, verify: Verify) -> str | None:
    """Why a client would not accept the narinfo `body` for `path`; None: it would."""
    try:
        info = parse(body, store_dir=str(PurePosixPath(path).parent))
    except ValueError as error:
        return f"its narinfo cannot be used: {error}"
    if info.store_path != path:
        return f"its narinfo is about {printable(info.store_path)}"
    by_name = [made for signer, made in info.signatures if signer == name]
    if not by_name:
        others = ", ".join(signer for signer, _made in info.signatures) or "nobody"
        return f"it is signed by {printable(others)}, not by {name}"
    fingerprint = info.fingerprint()
    if not any(verify(signature, fingerprint) for signature in by_name):
        return f"its signature by {name} does not fit the public key"
    return None


def parse(body: bytes, *, store_dir: str) -> NarInfo:
    """The narinfo in `body`; ValueError says what is missing or not understood."""
    fields: dict[str, str] = {}
    signatures: list[tuple[str, bytes]] = []
    for line in body.decode("utf-8", errors="replace").splitlines():
        key, colon, value = line.partition(": ")
        if key == "Sig":
            signatures.append(_signature(value))
        elif colon:
            fields[key] = value.strip()
    for key in ("StorePath", "URL", "NarHash", "NarSize"):
        if not fields.get(key):
            raise ValueError(f"no {key}")
    if not _NAR_HASH.fullmatch(fields["NarHash"]):
        raise ValueError("NarHash is not sha256 in base 32")
    return NarInfo(
        store_path=fields["StorePath"],
        url=fields["URL"],
        nar_hash=fields["NarHash"],
        nar_size=_natural(fields["NarSize"]),
        references=_references(fields, store_dir),
        signatures=tuple(signatures),
    )


def _natural(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise ValueError("NarSize is not a number")
    return int(text)


def _references(fields: Mapping[str, str], store_dir: str) -> tuple[str, ...]:
    return tuple(
        f"{store_dir}/{name}" for name in sorted(fields.get("References", "").split())
    )


def _signature(value: str) -> tuple[str, bytes]:
    """`NAME:BASE64`; a signature that is no base64 stays, and verifies nothing."""
    name, _, encoded = value.strip().partition(":")
    try:
        return name, base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return name, b""


def verifier(public_key: str) -> tuple[str, Verify]:
    """The name in `public_key`, and what checks a signature made by its owner."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    name, _, encoded = public_key.partition(":")
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded))

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return name, verify


def _session(timeout: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    """Status and body; raises _NoAnswer when there is none, or one without end."""
    try:
        async with session.get(url, allow_redirects=False) as response:
            body = b""
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LARGEST_ANSWER:
                    raise _NoAnswer(f"{url} answers with more than a narinfo")
            return response.status, body
    except TimeoutError:
        raise _Silent(f"{url} does not answer in time") from None
    except aiohttp.ClientError as error:
        raise _NoAnswer(f"{url} does not answer: {printable(str(error))}") from error
