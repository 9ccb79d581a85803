"""What can be built here is what Nix's own configuration says."""

from __future__ import annotations

from pathlib import Path

from ci.adapters.nix_environment import discover
from ci.adapters.nix_systems import buildable_systems
from tests.fakes.nix_stores import NixStore


async def test_remote_builders_widen_what_is_built_here(
    nix: NixStore, tmp_path: Path
) -> None:
    machines = tmp_path / "machines"
    machines.write_text(
        "# a comment\nssh-ng://far aarch64-linux,armv7l-linux /key 2 1 - - -\n"
    )
    config = f"builders = @{machines} ; ssh://mac aarch64-darwin"
    found = await discover(nix.program, {**nix.env, "NIX_CONFIG": config})
    systems = await buildable_systems(found, {})
    assert {"aarch64-linux", "armv7l-linux", "aarch64-darwin", found.system} <= systems
    assert "riscv64-linux" not in systems


async def test_alone_a_host_builds_for_itself(nix: NixStore) -> None:
    found = await discover(nix.program, {**nix.env, "NIX_CONFIG": "builders ="})
    systems = await buildable_systems(found, {})
    assert found.system in systems
    assert "aarch64-darwin" not in systems
