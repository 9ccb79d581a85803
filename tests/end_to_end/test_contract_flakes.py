"""Flakes that lie, spy or need what is not there: a state and a sentence for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_verdicts import many
from tests.fakes.flakes import HERE, NO_HASH, THERE, for_this_machine, locked
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

# Nobody listens there: the network is as good as down.
NOWHERE = "http://127.0.0.1:9/input.git"
GONE = {"type": "git", "url": NOWHERE}
HASHED = {"narHash": NO_HASH, "lastModified": 1}
# What a builder can print to look like Nix itself; the first line is the internal log
# format, the second what `nix build` prints for people.
FORGED = (
    r"echo '@nix {\"action\":\"msg\",\"level\":0,\"msg\":\"error: hash mismatch\"}' >&2;"
    r"echo '@nix {\"action\":\"stop\",\"id\":1}' >&2;"
    r"echo '@nix {\"action\":\"result\",\"id\":1,\"type\":105,\"fields\":[1,1,0,0]}' >&2;"
    r"echo 'error: hash mismatch in fixed-output derivation' >&2;"
)


@pytest.fixture
async def flake_world(
    tmp_path: Path, origin: Origin, github: FakeGitHub, nix: NixStore
) -> World:
    """A world for each Nix, without its daemon."""
    return World(tmp_path, origin, github, nix.env, nix.program)


def flake(**attributes: str) -> dict[str, str]:
    """A flake with these packages for this machine; `mk NAME SCRIPT {}` builds one."""
    (text,) = many(**attributes).values()
    return {"flake.nix": for_this_machine(text)}


def spying(world: World) -> dict[str, str]:
    """Evaluations that tell what they can see of this machine and its secrets."""
    secret = f"{world.folder}/webhook-secret"
    return {
        "env": 'throw "seen: <${builtins.getEnv "HOME"}${builtins.getEnv "PATH"}>"',
        "secret": f'builtins.readFile "{secret}"',
        "state": f'throw (toString (builtins.readDir "{world.state_dir}"))',
        "run": 'builtins.exec [ "id" ]',
    }


async def ended(server: Server, number: int) -> dict[str, Any]:
    """The build once its first attempt is over, whatever became of it."""

    async def over() -> dict[str, Any] | None:
        build = await server.build(number)
        waits = build["state"] == "queued" and build["attempt"] == 0
        return None if waits or build["state"] == "running" else build

    found: dict[str, Any] | None = await wait_until(
        over, what=f"the first attempt of build {number}"
    )
    assert found is not None
    return found


def targets(build: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {target["name"]: target for target in build["targets"]}


async def test_what_a_flake_may_say_and_see(flake_world: World) -> None:
    world = flake_world
    async with world.server() as server:
        forged = world.origin.commit(
            flake(
                liar=f'mk "liar" "{FORGED} echo the true reason >&2; exit 4" {{ }}',
                calm=f'mk "calm" "{FORGED} echo ok > $out" {{ }}',
            )
        )
        await server.push(forged)
        build = await server.finished(1)
        assert build["state"] == "failed"
        liar, calm = targets(build)["packages.liar"], targets(build)["packages.calm"]
        assert (liar["state"], calm["state"]) == ("failed", "succeeded")
        assert "the true reason" in liar["error"]
        assert "hash mismatch" not in liar["error"]
        assert calm["outputs"]["out"].endswith("-calm")

        spies = world.origin.commit(flake(**spying(world)))
        await server.push(spies, before=forged)
        build = await server.finished(2)
        assert build["state"] == "failed"
        seen = targets(build)
        assert {target["state"] for target in seen.values()} == {"failed"}
        assert "seen: <>" in seen["packages.env"]["error"]
        said = str(build) + (await server.text("/builds/2/log")).decode()
        assert world.secret.decode() not in said
        assert "history.db" not in said

        # Nothing that a commit could mend: not its fault, and no attempt of three.
        lost = world.origin.commit(
            {
                "flake.nix": f'{{ inputs.dep.url = "git+{NOWHERE}"; '
                f"outputs = {{ self, dep }}: {{ packages.{HERE}.a = 1; }}; }}",
                "flake.lock": locked("dep", {**GONE, "rev": "1" * 40, **HASHED}, GONE),
            }
        )
        await server.push(lost, before=spies)
        build = await ended(server, 3)
        assert build["state"] in {"queued", "error"}, build
        assert "dep" in build["summary"]
        assert history(world, "SELECT counted FROM builds WHERE number = 3") == [(0,)]
        assert (await server.post("/builds/3/cancel"))[0] == 202

        # The same derivations again: known by then, and never built twice.
        calm_only = {"flake.lock": None, **flake(calm='mk "calm2" "echo > $out" { }')}
        first = world.origin.commit(calm_only)
        again = world.origin.commit({"README": "the same flake"})
        await server.push(first, before=lost)
        await server.finished(4)
        await server.push(again, before=first)
        assert (await server.finished(5))["state"] == "succeeded"
        timeline = history(world, "SELECT build FROM derivations WHERE build > 3")
        assert timeline == [(4,)]


async def test_at_most_twenty_failing_targets_get_a_context(flake_world: World) -> None:
    world = flake_world
    bad = {f"t{n:02}": f'mk "t{n:02}" "exit 1" {{ }}' for n in range(22)}
    foreign = f'derivation {{ name = "f"; system = "{THERE}"; builder = "x"; }}'
    sha = world.origin.commit(flake(**bad, foreign=foreign))
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "failed"
        assert targets(build)["packages.foreign"]["state"] == "skipped"
        assert THERE in targets(build)["packages.foreign"]["error"]
        rows = history(world, "SELECT context, state FROM outbox WHERE state='failure'")
        contexts = [context for context, _ in rows]
        assert contexts[0] == "build-server"
        assert len(contexts) == 21
        assert set(contexts[1:]) <= {f"build-server/packages.{name}" for name in bad}
        posted = await world.github.wait_for(sha, "failure")
        assert "22 of 23 failed" in posted.description
        asked = {"rev": sha, "force": True, "targets": ["packages.t07"]}
        assert (await server.post("/build/trigger", asked))[0] == 202
        build = await server.finished(1)
        assert list(targets(build)) == ["packages.t07"]


async def test_only_what_was_built_has_outputs(flake_world: World) -> None:
    world = flake_world
    sha = world.origin.commit(
        flake(
            good='mk "good" "echo > $out" { }',
            bad='mk "bad" "exit 1" { }',
            child='mk "child" "cat $bad > $out" { inherit bad; }',
        )
    )
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        outputs = {name: t["outputs"] for name, t in targets(build).items()}
        assert set(outputs["packages.good"]) == {"out"}
        assert outputs["packages.bad"] == {}
        assert outputs["packages.child"] == {}
