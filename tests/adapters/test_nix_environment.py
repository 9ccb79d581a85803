"""Finding Nix, its version and its store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ci.adapters.nix_environment import discover
from ci.adapters.nix_systems import buildable_systems
from ci.errors import ConfigurationError, HostFault
from tests.fakes.nix_stores import NixStore

NOBODY = 65534
HERE = os.uname().machine + "-linux"


async def test_a_store_of_our_own(nix: NixStore) -> None:
    found = await discover(nix.program, nix.env)
    assert found.version == nix.version[:3]
    assert found.system == HERE
    assert (found.nix, found.daemon) == (nix.program, nix.daemon)
    assert found.socket is None
    assert found.env["NIX_REMOTE"] == "local"
    assert found.store_dir == Path(nix.env["NIX_STORE_DIR"])
    assert set(found.writable) == {found.store_dir, found.state_dir, found.log_dir}
    assert Path(nix.env["NIX_CONF_DIR"], "nix.conf") in found.readable
    assert not {"PATH", "HOME"} & found.env.keys()


async def test_a_daemon(nix_daemon_store: NixStore) -> None:
    found = await discover(nix_daemon_store.program, nix_daemon_store.env)
    socket = Path(nix_daemon_store.env["NIX_DAEMON_SOCKET_PATH"])
    assert found.socket == socket
    assert found.env["NIX_REMOTE"] == "daemon"
    assert found.writable == ()
    assert {found.store_dir, socket} <= set(found.readable)
    url = {**nix_daemon_store.env, "NIX_REMOTE": f"unix://{socket}"}
    again = await discover(nix_daemon_store.program, url)
    assert asdict(again) == asdict(found)


async def test_a_name_on_path_and_a_link(nix: NixStore, tmp_path: Path) -> None:
    (tmp_path / "nix").symlink_to(nix.program)
    env = {**nix.env, "PATH": f"{tmp_path}:{nix.env['PATH']}"}
    found = await discover("nix", env)
    assert (found.nix, found.daemon) == (nix.program, nix.daemon)


async def test_credentials_are_for_fetching_only(nix: NixStore, tmp_path: Path) -> None:
    secret = tmp_path / "tokens.conf"
    secret.write_text("access-tokens = github.com=canary-1\n")
    (tmp_path / "more.conf").write_text(f"!include {secret.name}\n!include absent\n")
    (tmp_path / "nix.conf").write_text("include more.conf\ncores = 1\n")
    config = "access-tokens = github.com=canary-2\nextra-access-tokens = a=b\ncores = 2"
    env = {**nix.env, "NIX_CONF_DIR": str(tmp_path), "NIX_CONFIG": config, "OTHER": "x"}
    found = await discover(nix.program, env)
    assert found.env["NIX_CONFIG"] == "cores = 2"
    assert {tmp_path / "nix.conf", tmp_path / "more.conf"} <= set(found.readable)
    assert secret not in found.readable
    assert "OTHER" not in found.env
    fetching = found.for_fetching()
    assert fetching.env["NIX_CONFIG"] == config
    assert set(fetching.readable) - set(found.readable) == {secret}


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo x86_64-linux 2.3.16", "is Nix 2.3.16; 2.8 or newer is needed"),
        ("echo broken >&2; exit 1", "does not work: broken"),
    ],
)
async def test_a_nix_that_cannot_be_used(
    tmp_path: Path, script: str, message: str
) -> None:
    for name in ("nix", "nix-daemon"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    with pytest.raises(ConfigurationError, match=message):
        await discover(str(tmp_path / "nix"), {"PATH": os.environ["PATH"]})


async def test_a_nix_that_was_killed_may_work_the_next_time(
    nix: NixStore, tmp_path: Path
) -> None:
    for name in ("nix", "nix-daemon"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\nkill -9 $$\n")
        program.chmod(0o755)
    path = {"PATH": os.environ["PATH"]}
    with pytest.raises(HostFault, match="killed by signal 9"):
        await discover(str(tmp_path / "nix"), path)
    found = await discover(nix.program, nix.env)
    with pytest.raises(HostFault, match="killed by signal 9"):
        await buildable_systems(replace(found, nix=str(tmp_path / "nix")), path)


@pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
async def test_a_daemon_whose_socket_is_not_there_yet(
    nix: NixStore, tmp_path: Path
) -> None:
    """Its store is not ours to write: without the daemon every build would fail.

    Today's Nix may lie in a checkout that only root can enter.
    """
    state = tmp_path / "var"
    state.mkdir(mode=0o555)
    env = {**nix.env, "NIX_STATE_DIR": str(state), "NIX_REMOTE": ""}
    socket = state / "daemon-socket/socket"
    with somebody():
        with pytest.raises(HostFault, match=f"its socket {socket} is not there"):
            await discover(nix.program, env)
        state.chmod(0o755)
        socket.parent.mkdir()
        socket.touch()
        state.chmod(0o555)
        assert (await discover(nix.program, env)).socket == socket


@contextmanager
def somebody() -> Iterator[None]:
    """Whether a file may be written is asked for somebody who is not root."""
    if os.getuid() != 0:
        yield
        return
    os.setreuid(NOBODY, 0)
    try:
        yield
    finally:
        os.setreuid(0, 0)


async def test_no_nix_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no program `nix` was found"):
        await discover("nix", {"PATH": str(tmp_path)})
    (tmp_path / "nix").touch(mode=0o755)
    with pytest.raises(ConfigurationError, match="`nix-daemon` is missing beside"):
        await discover("nix", {"PATH": str(tmp_path)})


async def test_a_store_out_of_reach(nix: NixStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = {**nix.env, "NIX_STORE_DIR": str(tmp_path / "file/store")}
    with pytest.raises(ConfigurationError, match=r"the Nix store needs .*/file/store"):
        await discover(nix.program, env)
    with pytest.raises(ConfigurationError, match="NIX_REMOTE is `ssh-ng://far`"):
        await discover(nix.program, {**nix.env, "NIX_REMOTE": "ssh-ng://far"})
