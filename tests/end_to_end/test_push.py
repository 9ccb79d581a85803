"""The main job: a signed push becomes built commits with honest statuses."""

from __future__ import annotations

import asyncio

from tests.end_to_end.server import World
from tests.end_to_end.test_contract_commits import gate, open_gate

FLAKE = """{
  outputs = { self }:
    let
      mk = name: script: extra: derivation ({
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        PATH = "/bin:/usr/bin";
        args = [ "-c" script ];
      } // extra);
    in {
      packages.x86_64-linux = rec {
        good = mk "good" "echo making good; echo g > $out" { };
        more = mk "more" "cat $good > $out" { inherit good; };
      };
      checks.x86_64-linux.CHECK = mk "check" "echo looking; SCRIPT" { };
    };
}
"""


def flake(script: str = "echo ok > $out", check: str = "fine") -> dict[str, str]:
    return {"flake.nix": FLAKE.replace("SCRIPT", script).replace("CHECK", check)}


async def test_a_push_becomes_a_built_commit_with_a_posted_status(
    world: World,
) -> None:
    files = flake(f"{gate(world)}; echo ok > $out")
    # What `flake` alone makes may be in the store already, from another test.
    own = f"making good for {world.folder.name}"
    files["flake.nix"] = files["flake.nix"].replace("making good", own)
    sha = world.origin.commit(files)
    async with world.server() as server:
        answer = await server.push(sha)
        assert answer == {"accepted": True, "builds": [1]}
        # A build that ends before its pending is on its way has none.
        await world.github.wait_for(sha, "pending")
        await asyncio.to_thread(open_gate, world)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build
        assert {t["name"] for t in build["targets"]} == {
            "packages.good",
            "packages.more",
            "checks.fine",
        }
        posted = await world.github.wait_for(sha, "success")
        assert posted.context == "build-server"
        states = [status.state for status in world.github.statuses(sha)]
        assert states == ["pending", "success"]
        log = await server.text("/builds/1/log")
        assert f"good> {own}\n".encode() in log
        assert (await server.push(sha, guid="again"))["builds"] == [1]
        assert await server.stop() == 0
