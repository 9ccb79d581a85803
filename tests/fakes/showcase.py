"""A day in the life of a small repository, built for real: what pages are looked at with.

Seven commits of tests/samples/nix/flakes/shop by three people: good, good, a test that
breaks, a second try, an evaluation that fails, the mending, and one that is still built.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.end_to_end.server import Server, World
from tests.fakes.flakes import sample
from tests.fakes.push import ZERO, encode, make_commit, make_push
from tests.fakes.waiting import wait_until

REPO = "alice/shop"
PASSES = 'echo "41 passed in 0.8s"'
FAILS = """\
printf 'GET /cart \\033[32m200\\033[0m\\nGET /total \\033[31m500\\033[0m\\n'
echo 'see https://shop.example.org/runs/17 for the picture'
echo 'AssertionError: expected 200, got 500'
echo '1 failed, 40 passed in 0.9s'
exit 1
"""
FOREVER = """\
for n in $(seq 1 20000); do
  printf '[%d/20000] \\033[32mok\\033[0m test_page_%d\\n' "$n" "$n"; sleep 0.2
done
"""
# A line of it; that many more take over an hour.
EARLY = "[2/20000]"
GOOD, BAD, EVALUATION, RUNNING = 1, 3, 5, 7


@dataclass(frozen=True)
class Step:
    """One commit; `versions` are merged into those before."""

    title: str
    author: str
    versions: dict[str, str]
    broken: bool = False


STEPS = (
    Step("Open the shop", "Alice Liddell", {"test": PASSES}),
    Step("web: add the cart page", "Bob Sawyer", {"web": "2"}),
    Step(
        "server: count taxes only once", "Alice Liddell", {"server": "2", "test": FAILS}
    ),
    Step("cart: round to the next cent", "Bob Sawyer", {"cart": "2"}),
    Step("money: rename sum to total", "Carol Bird", {"money": "2"}, broken=True),
    Step("server: count taxes once, really", "Alice Liddell", {"test": PASSES}),
    Step("web: test every page", "Carol Bird", {"web": "3", "test": FOREVER}),
)


def files(versions: dict[str, str], *, broken: bool) -> dict[str, str]:
    """The flake with these versions; a broken one cannot be evaluated."""
    found = sample("shop")
    lines = [f"  {name} = {_nix(value)};" for name, value in sorted(versions.items())]
    found["versions.nix"] = "\n".join(["{", *lines, "}", ""])
    if broken:
        found["flake.nix"] = found["flake.nix"].replace(
            "inherit server web;", "inherit server web; total = self.lib.money.totl;"
        )
    return found


def _nix(value: str) -> str:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("${", "\\${")
    return '"' + quoted.replace("\n", "\\n") + '"'


async def push(server: Server, step: Step, versions: dict[str, str]) -> str:
    """Commit and tell the server; returns the commit's SHA."""
    origin = server.world.origin
    before = await asyncio.to_thread(origin.find, "dev")
    versions |= step.versions
    content = files(versions, broken=step.broken)
    sha = await asyncio.to_thread(
        lambda: origin.commit(content, step.title, author=step.author)
    )
    payload = make_push(
        [make_commit(sha, step.title, author=step.author)],
        repo=str(server.world.repository["name"]),
        before=before or ZERO,
        created=before is None,
        branch="dev",
    )
    status, answer = await server.deliver(encode(payload))
    assert status == 202, answer
    return sha


@asynccontextmanager
async def showcase(world: World) -> AsyncIterator[Server]:
    """The server with all that was built; build RUNNING still runs, and one waits."""
    world.repository = {"name": REPO, **world.repository}
    world.build = {"parallel": 1, **world.build}
    async with world.server() as server:
        versions: dict[str, str] = {}
        for number, step in enumerate(STEPS, 1):
            await push(server, step, versions)
            if number < RUNNING:
                await server.finished(number)
        await wait_until(lambda: _says(server, EARLY), 60, what=f"{EARLY} in the log")
        waiting = Step("manual: a chapter about taxes", "Bob Sawyer", {"manual": "2"})
        await push(server, waiting, versions)
        yield server


async def _says(server: Server, words: str) -> bool:
    """Whether they stand in the log of what runs."""
    if (await server.build(RUNNING))["state"] != "running":
        return False
    return words.encode() in await server.text(f"/builds/{RUNNING}/log")
