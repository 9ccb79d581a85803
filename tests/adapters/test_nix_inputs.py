"""Fetching what flake.lock names, from a server on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.adapters.nix_eval.lock import parse_lock
from ci.adapters.sandbox import Sandbox
from ci.errors import CommitFault, HostFault, NetworkDown
from tests.adapters.nix_bench import Bench, bench_of
from tests.fakes.flakes import InputServer, locked_tarball, sample
from tests.fakes.nix_stores import NixStore


async def test_inputs_are_fetched_before_and_only_once(
    bench: Bench, input_host: InputServer
) -> None:
    url = input_host.serve(
        "once.tar.gz", {"flake.nix": '{ outputs = _: { value = "1"; }; }'}
    )
    files = sample("inputs", URL=url)
    lock = locked_tarball(url, {"flake.nix": '{ outputs = _: { value = "1"; }; }'})
    sha = bench.origin.commit({**files, "flake.lock": lock})
    results = await bench.evaluate(sha, "packages.*")
    assert results["packages.default"].error is None
    assert b"fetching the flake input dep" in b"".join(bench.said)
    requests = len(input_host.requests)
    assert requests > 0
    again = bench.origin.commit({"README": "another commit"})
    results = await bench.evaluate(again, "packages.*")
    assert results["packages.default"].error is None
    assert len(input_host.requests) == requests
    assert len(parse_lock(lock.encode())) == 1


async def test_what_an_address_gave_before_is_not_taken_for_what_it_gives_now(
    bench: Bench, input_host: InputServer
) -> None:
    for value in ("moving 1", "moving 2"):
        content = {"flake.nix": f'{{ outputs = _: {{ value = "{value}"; }}; }}'}
        url = input_host.serve("moving.tar.gz", content)
        lock = locked_tarball(url, content)
        sha = bench.origin.commit({**sample("inputs", URL=url), "flake.lock": lock})
        results = await bench.evaluate(sha, "packages.*")
        assert results["packages.default"].error is None


async def test_an_input_that_a_crash_left_half_written_is_fetched_again(
    bench: Bench, input_host: InputServer
) -> None:
    content = {"flake.nix": '{ outputs = _: { value = "half"; }; }'}
    url = input_host.serve("half.tar.gz", content)
    lock = locked_tarball(url, content)
    path = parse_lock(lock.encode())[0].store_path(
        Path(bench.store.env["NIX_STORE_DIR"])
    )
    assert path is not None
    path.mkdir(parents=True)
    sha = bench.origin.commit({**sample("inputs", URL=url), "flake.lock": lock})
    results = await bench.evaluate(sha, "packages.*")
    assert results["packages.default"].error is None
    assert (path / "flake.nix").read_text() == content["flake.nix"]


async def test_whose_fault_an_unfetchable_input_is(
    nix: NixStore, bubblewrap: Sandbox, input_host: InputServer, tmp_path: Path
) -> None:
    bench = await bench_of(
        nix, bubblewrap, tmp_path, NIX_CONFIG="download-attempts = 1"
    )
    other = {"flake.nix": "{ outputs = _: { }; }"}
    changed = input_host.serve("changed.tar.gz", other)
    cases = [
        ("http://127.0.0.1:1/closed.tar.gz", NetworkDown, "cannot be fetched now"),
        (f"{input_host.url}/gone.tar.gz", HostFault, "HTTP error 404"),
        (changed, CommitFault, "run `nix flake update dep` and commit flake.lock"),
    ]
    for url, fault, message in cases:
        lock = locked_tarball(url, {"flake.nix": f"# never served: {url}"})
        sha = bench.origin.commit({**sample("inputs", URL=url), "flake.lock": lock})
        with pytest.raises(fault) as caught:
            await bench.fetch_inputs(sha)
        assert type(caught.value) is fault
        assert message in str(caught.value)
        assert "`dep`" in str(caught.value)
