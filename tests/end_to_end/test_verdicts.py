"""Every way a flake can go wrong has its own state and first error line."""

from __future__ import annotations

import asyncio

import pytest

from tests.end_to_end.server import World
from tests.end_to_end.test_contract_commits import gate, open_gate
from tests.end_to_end.test_push import flake
from tests.fakes.waiting import wait_until
from tests.model.driver import HURRIED

FORGED = (
    (
        'echo "@nix {\\"action\\":\\"msg\\",\\"level\\":0,\\"msg\\":\\"error: forged\\"}" >&2;'
        'echo "@nix {\\"action\\":\\"start\\",\\"id\\":99,\\"level\\":3,\\"type\\":105,'
        '\\"text\\":\\"x\\",\\"fields\\":[\\"/x.drv\\",\\"\\",1,1]}" >&2; echo ok > $out'
    )
    .replace('"', '\\"')
    .replace('\\\\"', '\\\\\\"')
)


def many(**attributes: str) -> dict[str, str]:
    body = "\n".join(f"{name} = {value};" for name, value in attributes.items())
    return {
        "flake.nix": """{
  outputs = { self }:
    let
      mk = name: script: extra: derivation ({
        inherit name; system = "x86_64-linux"; builder = "/bin/sh";
        PATH = "/bin:/usr/bin"; args = [ "-c" script ];
      } // extra);
    in { packages.x86_64-linux = rec { BODY }; };
}
""".replace("BODY", body)
    }


BAD = {
    "throws": 'throw "deliberate evaluation failure"',
    "missing": "self.packages.x86_64-linux.nothere",
    "breaks": 'mk "breaks" "echo about to fail; exit 3" { }',
    "child": 'mk "child" "echo $breaks > $out" { inherit breaks; }',
    "wronghash": (
        'derivation { name = "wronghash"; system = "x86_64-linux"; '
        'builder = "/bin/sh"; args = [ "-c" "echo wrong > $out" ]; '
        'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = '
        '"sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; }'
    ),
    "nothing": 'mk "nothing" "true" { }',
    "fine": 'mk "fine" "echo ok > $out" { }',
}
SAID = {
    "packages.throws": "deliberate evaluation failure",
    "packages.missing": "nothere",
    "packages.breaks": "exit code 3: about to fail",
    "packages.child": "dependency breaks failed",
    "packages.wronghash": "hash mismatch",
    "packages.nothing": "failed to produce output",
}


async def test_each_fault_of_a_commit_is_failed_with_its_own_sentence(
    world: World,
) -> None:
    sha = world.origin.commit(many(**BAD))
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "failed"
        targets = {target["name"]: target for target in build["targets"]}
        for name, words in SAID.items():
            assert targets[name]["state"] == "failed", targets[name]
            assert words in targets[name]["error"], targets[name]
            assert "\n" not in targets[name]["error"]
        assert targets["packages.fine"]["state"] == "succeeded"
        assert targets["packages.fine"]["outputs"]["out"].endswith("-fine")
        posted = await world.github.wait_for(sha, "failure")
        assert "of 7 failed" in posted.description
        assert len(posted.description) <= 140


@pytest.mark.parametrize(
    ("files", "state", "words"),
    [
        ({"README": "no flake here"}, "failed", "flake.nix"),
        ({"flake.nix": "{ outputs = { self }: {"}, "failed", "syntax error"),
        ({"flake.nix": "{ outputs = { self }: { lib = 1; }; }"}, "failed", "no target"),
        (
            {
                "flake.nix": '{ inputs.x.url = "github:nobody/nothing"; '
                "outputs = { self, x }: { packages.x86_64-linux.a = 1; }; }"
            },
            "failed",
            "lock",
        ),
    ],
    ids=["no flake", "syntax", "nothing matches", "no lock"],
)
async def test_a_flake_that_cannot_be_read_is_the_commits_fault(
    world: World, files: dict[str, str], state: str, words: str
) -> None:
    sha = world.origin.commit(files)
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == state, build
        assert words in build["summary"], build


async def test_a_builder_cannot_forge_a_verdict(world: World) -> None:
    forged = flake(script=FORGED)
    sha = world.origin.commit(forged)
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build


async def test_a_commit_that_vanished_is_skipped_and_its_pending_closed(
    world: World,
) -> None:
    world.build = {"parallel": 1}
    first = world.origin.commit(flake(f"{gate(world)}; echo ok > $out"))
    gone = "1234567890" * 4
    # It is looked for more than once, with pauses.
    world.program = (str(HURRIED),)
    async with world.server() as server:
        await server.push(first)

        async def busy() -> bool:
            return b"check> looking\n" in await server.text("/builds/1/log")

        await wait_until(busy, 60, what="a build that keeps others waiting")
        await server.push(gone, before=first)
        # One that ends before its pending is on its way has nothing to close.
        await world.github.wait_for(gone, "pending")
        await asyncio.to_thread(open_gate, world)
        build = await server.finished(2)
        assert build["state"] == "skipped", build
        posted = await world.github.wait_for(gone, "error")
        assert "no longer" in posted.description


async def test_a_commit_that_is_told_before_it_can_be_had_is_built(
    command_world: World,
) -> None:
    """GitHub's webhook may be faster than GitHub's own servers among themselves."""
    world = command_world
    old = world.origin.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    sha = world.origin.commit({"more": "of it"})
    kept = str(world.folder / "kept.bundle")
    world.origin.git("bundle", "create", "--quiet", kept, "dev", f"^{old}")
    world.origin.branch("dev", old)
    world.origin.vanish()
    async with world.server() as server:
        await server.push(sha, before=old)
        build = await server.until_state(1, "queued")
        while build["attempt"] == 0:
            build = await server.until_state(1, "queued")
        assert "does not have this commit yet" in build["summary"]
        await asyncio.to_thread(world.origin.git, "fetch", "--quiet", kept, "dev:dev")
        # After five seconds, or after half a minute when that was too soon.
        build = await server.finished(1, 120)
        assert build["state"] == "succeeded"
        assert build["attempt"] >= 2
        await world.github.wait_for(sha, "success")
    assert {status.state for status in world.github.taken} <= {"pending", "success"}


async def test_an_unreachable_remote_costs_no_attempt_and_is_no_verdict(
    command_world: World,
) -> None:
    world = command_world
    sha = world.origin.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    hidden = world.origin.path.with_name("away")
    world.origin.path.rename(hidden)
    async with world.server() as server:
        await server.push(sha)
        waiting = await server.until_state(1, "queued")
        while waiting["attempt"] == 0:
            waiting = await server.until_state(1, "queued")
        assert waiting["summary"]
        hidden.rename(world.origin.path)
        # After five seconds, or after half a minute when that was too soon.
        build = await server.finished(1, 120)
        assert build["state"] == "succeeded"
        assert build["attempt"] >= 2
