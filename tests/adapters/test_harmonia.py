"""A binary cache that Nix itself filled and signed, asked as a client would ask it."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given, strategies as st
from pytest_aiohttp import AiohttpServer

from ci.adapters import harmonia
from ci.adapters.harmonia import cache_running, fetchable
from tests.fakes.nix_stores import NixStore

EXPRESSION = """
let
  make = name: text: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" "echo ${text} > $out" ];
  };
  dep = make "dep" "dep";
  other = make "other" "other";
in { inherit dep; top = make "top" "${other} ${dep}"; lonely = make "lonely" "x"; }
"""
NAME = "test-cache-1"
MISSING = "/nix/store/" + "a" * 32 + "-missing"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Cache:
    """A file cache in `www`, signed with the other half of `public_key`."""

    www: Path
    public_key: str
    other_key: str
    top: str
    dep: str
    lonely: str

    def narinfo(self, path: str) -> bytes:
        return (self.www / f"{Path(path).name[:32]}.narinfo").read_bytes()


def _new_key(nix: NixStore, directory: Path, name: str) -> tuple[Path, str]:
    secret, public = directory / f"{name}.secret", directory / f"{name}.public"
    program = Path(nix.program).with_name("nix-store")
    subprocess.run(
        [program, "--generate-binary-cache-key", NAME, secret, public],
        env=dict(nix.env),
        check=True,
    )
    return secret, public.read_text().strip()


@pytest.fixture(scope="module")
def cache(nix: NixStore, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    directory = tmp_path_factory.mktemp("cache")
    secret, public_key = _new_key(nix, directory, "ours")
    _, other_key = _new_key(nix, directory, "theirs")
    expression = directory / "default.nix"
    expression.write_text(EXPRESSION)
    built = json.loads(
        nix.run(
            "build",
            "--no-link",
            "--json",
            "--file",
            str(expression),
            "top",
            "dep",
            "lonely",
        )
    )
    paths = {
        Path(one["outputs"]["out"]).name[33:]: one["outputs"]["out"] for one in built
    }
    www = directory / "www"
    to = f"file://{www}?secret-key={secret}&compression=none"
    nix.run("copy", "--to", to, paths["top"], paths["lonely"])
    return Cache(
        www, public_key, other_key, paths["top"], paths["dep"], paths["lonely"]
    )


@pytest.fixture
async def url(cache: Cache, aiohttp_server: AiohttpServer) -> str:
    application = web.Application()
    application.router.add_static("/", cache.www)
    server = await aiohttp_server(application)
    return str(server.make_url("")).rstrip("/")


async def test_what_nix_signed_can_be_fetched(cache: Cache, url: str) -> None:
    """With references and without; and a stranger's path is told from ours."""
    missing = str(Path(cache.top).parent / Path(MISSING).name)
    paths = [cache.top, cache.dep, cache.lonely, missing, cache.top]
    found = await fetchable(paths, url, cache.public_key)
    assert found == {
        cache.top: None,
        cache.dep: None,
        cache.lonely: None,
        missing: f"{url} does not have it",
    }
    info = harmonia.parse(
        cache.narinfo(cache.top), store_dir=str(Path(cache.top).parent)
    )
    assert len(info.references) == 2
    assert cache.dep in info.references
    assert await cache_running(url, timeout=20)
    assert await fetchable([], url, cache.public_key) == {}


async def test_only_the_key_that_clients_trust_counts(cache: Cache, url: str) -> None:
    renamed = "other-1" + cache.public_key.removeprefix(NAME)
    assert await fetchable([cache.top], url, cache.other_key) == {
        cache.top: f"its signature by {NAME} does not fit the public key"
    }
    assert await fetchable([cache.top], url, renamed) == {
        cache.top: f"it is signed by {NAME}, not by other-1"
    }


def _forgeries(narinfo: str) -> Iterator[tuple[str, str]]:
    """The narinfo with each thing changed that a client relies on."""
    lines = narinfo.splitlines()
    for number, line in enumerate(lines):
        key, _, value = line.partition(": ")
        before, after = lines[:number], lines[number + 1 :]
        without = "\n".join([*before, *after])
        if key in ("StorePath", "NarHash", "NarSize", "References", "Sig", "URL"):
            yield f"no {key}", without
        if key in ("StorePath", "NarHash", "NarSize", "References"):
            changed = value.replace(value[-1], "1" if value[-1] != "1" else "2")
            yield f"other {key}", "\n".join([*before, f"{key}: {changed}", *after])
        if key == "Sig":
            yield "no base64", "\n".join([*before, f"Sig: {NAME}:*", *after])
            yield "short", "\n".join([*before, f"Sig: {NAME}:AAAA", *after])
        if key == "References":
            yield "one more", "\n".join([*before, f"{line} {MISSING[11:]}", *after])


def test_no_forgery_passes(cache: Cache) -> None:
    narinfo = cache.narinfo(cache.top).decode()
    name, verify = harmonia.verifier(cache.public_key)

    def reason(text: str) -> str | None:
        return harmonia.unfetchable(text.encode(), cache.top, name, verify)

    assert reason(narinfo) is None
    assert reason(narinfo.replace("\n", "\r\n")) is None
    forgeries = dict(_forgeries(narinfo))
    assert len(forgeries) == 13
    assert [what for what, text in forgeries.items() if reason(text) is None] == []
    another = cache.narinfo(cache.lonely).decode()
    assert reason(another) == f"its narinfo is about {cache.lonely}"


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_answer_is_parsed_or_refused(body: bytes) -> None:
    head = b"StorePath: /nix/store/x\nURL: nar/x\nNarSize: 1\n"
    for text in (body, head + body):
        reason = harmonia.unfetchable(text, MISSING, NAME, lambda *_: True)
        assert reason
        assert reason.isprintable()


async def _redirect(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere")


async def _broken(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def _endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):
        await response.write(b"StoreDir: /nix/store\n" * 1000)
    return response


async def _bomb(request: web.Request) -> web.StreamResponse:
    body = gzip.compress(b"StoreDir: /nix/store\n" * 100_000)
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


async def _silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    return web.Response()


async def _something_else(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>Welcome</html>")


@pytest.fixture
def serving(aiohttp_server: AiohttpServer) -> Callable[[Handler], Awaitable[str]]:
    async def serve(handler: Handler) -> str:
        application = web.Application()
        application.router.add_get("/{path:.*}", handler)
        server = await aiohttp_server(application, shutdown_timeout=0)
        return str(server.make_url("")).rstrip("/")

    return serve


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (_redirect, "is not a binary cache"),
        (_broken, "is not a binary cache"),
        (_something_else, "is not a binary cache"),
        (_bomb, "is not a binary cache"),
        (_endless, "/nix-cache-info answers with more than a narinfo"),
        (_silent, "/nix-cache-info does not answer in time"),
    ],
)
async def test_a_cache_that_misbehaves_is_no_cache(
    serving: Callable[[Handler], Awaitable[str]], handler: Handler, reason: str
) -> None:
    """Each wait is bounded, and a hundred paths wait no longer than one."""
    url = await serving(handler)
    paths = [f"/nix/store/{number:032}-x" for number in range(100)]
    key = f"{NAME}:{'A' * 43}="
    began = time.monotonic()
    timeout = 1.5 if handler is _silent else 20
    found = await fetchable(paths, url, key, timeout=timeout)
    assert time.monotonic() - began < 15
    assert {why and re.sub(r"^http://[^/ ]+ ?", "", why) for why in found.values()} == {
        reason
    }
    assert not await cache_running(url, timeout=timeout)


async def test_trouble_with_one_path_is_that_path_s_own(
    serving: Callable[[Handler], Awaitable[str]],
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/nix-cache-info":
            return web.Response(text="StoreDir: /nix/store\nWantMassQuery: 1\n")
        if request.path.startswith("/a"):
            return await _redirect(request)
        return await (_endless(request) if request.path < "/c" else _silent(request))

    url = await serving(handler)
    paths = [f"/nix/store/{char * 32}-x" for char in "abc"]
    key = f"{NAME}:{'A' * 43}="
    found = await fetchable([*paths, "/etc/passwd"], url, key, timeout=4)
    assert list(found.values()) == [
        f"{url} answered 302 for its narinfo",
        f"{url}/{'b' * 32}.narinfo answers with more than a narinfo",
        f"{url}/{'c' * 32}.narinfo does not answer in time",
        "/etc/passwd is not a store path",
    ]


async def test_a_cache_that_falls_silent_is_not_asked_path_by_path(
    serving: Callable[[Handler], Awaitable[str]],
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if request.path == "/nix-cache-info":
            return web.Response(text="StoreDir: /nix/store\n")
        return await _silent(request)

    url = await serving(handler)
    paths = [f"/nix/store/{number:032}-x" for number in range(100)]
    found = await fetchable(paths, url, f"{NAME}:{'A' * 43}=", timeout=4)
    assert all(
        why and why.endswith("does not answer in time") for why in found.values()
    )
    assert len(asked) == 1 + harmonia.PARALLEL


async def test_nobody_at_home(nowhere: str) -> None:
    assert not await cache_running(nowhere)
    found = await fetchable([MISSING], nowhere, f"{NAME}:{'A' * 43}=")
    reason = found[MISSING]
    assert reason is not None
    assert reason.startswith(f"{nowhere}/nix-cache-info does not answer: ")
