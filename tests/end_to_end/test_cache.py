"""With a cache, a green tick means that clients can download what was built."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

from aiohttp import web

from tests.end_to_end.server import World
from tests.end_to_end.test_push import flake
from tests.fakes.waiting import PATIENCE

KEY = "build-server-1"


def make_key(folder: Path, nix_store: str, env: dict[str, str]) -> str:
    """A signing key in `folder`; return the public half."""
    argv = [nix_store, "--generate-binary-cache-key", KEY]
    secret, public = folder / "secret", folder / "public"
    subprocess.run([*argv, str(secret), str(public)], env=env, check=True)
    return public.read_text().strip()


async def test_the_tick_waits_for_the_signed_cache(world: World) -> None:
    env = dict(world.environ)
    nix_store = str(Path(world.nix).with_name("nix-store"))
    public = await asyncio.to_thread(make_key, world.folder, nix_store, env)
    cache = world.folder / "cache"
    copied = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        """A static cache; the outputs get into it once somebody has asked for them."""
        name = request.match_info["name"]
        if name == "nix-cache-info":
            return web.Response(text=f"StoreDir: {env['NIX_STORE_DIR']}\n")
        if name.endswith(".narinfo") and not copied.is_set():
            copied.set()
            return web.Response(status=404)
        file = cache / name
        if not await asyncio.to_thread(file.is_file):
            return web.Response(status=404)
        return web.Response(body=await asyncio.to_thread(file.read_bytes))

    application = web.Application()
    application.router.add_get("/{name:.+}", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    world.extra = f'[cache]\nurl = "{url}"\npublic_key = "{public}"\nrequired = true'
    # Derivations of this test alone: the store is shared.
    text = flake()["flake.nix"].replace("good", "gem").replace("more", "mine")
    sha = world.origin.commit({"flake.nix": text})

    async def fill() -> None:
        """Copy what was built into the cache, signed, as Harmonia would serve it."""
        await copied.wait()
        target = f"file://{cache}?secret-key={world.folder}/secret&compression=none"
        folder = env["NIX_STORE_DIR"]
        names = await asyncio.to_thread(os.listdir, folder)
        wanted = {"gem", "mine", "check"}
        built = [f"{folder}/{name}" for name in names if name[33:] in wanted]
        process = await asyncio.create_subprocess_exec(
            world.nix, "copy", "--to", target, *built, env=env
        )
        assert await process.wait() == 0

    try:
        async with world.server() as server:
            await server.push(sha)
            async with asyncio.timeout(PATIENCE):
                await copied.wait()
            assert (await server.build(1))["state"] == "running"
            await fill()
            build = await server.finished(1)
            assert build["state"] == "succeeded", build
            assert build["summary"].endswith("· fetchable")
            posted = await world.github.wait_for(sha, "success")
            assert posted.description.endswith("· fetchable")
            assert (await server.get("/health"))["cache_running"] is True
    finally:
        await runner.cleanup()
