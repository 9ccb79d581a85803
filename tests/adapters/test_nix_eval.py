"""Evaluating real flakes with a real Nix, in the sandbox."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.nix_environment import discover
from ci.adapters.nix_eval import Evaluator
from ci.adapters.process import RUN_GRACE_SECONDS as GRACE
from ci.adapters.sandbox import Sandbox
from ci.errors import CommitFault, HostFault, HostLimit
from tests.adapters.nix_bench import GIB, PATH, Bench, bench_of
from tests.fakes.flakes import (
    HERE,
    THERE,
    InputServer,
    commit_sample,
    for_this_machine,
    sample,
)
from tests.fakes.nix_stores import NixStore
from tests.fakes.waiting import wait_until


def realised(bench: Bench, derivation: str | None) -> str:
    """Build a derivation with Nix's own program; returns the path of its output."""
    assert derivation is not None
    program = Path(bench.store.program).with_name("nix-store")
    argv = [str(program), "--realise", derivation]
    done = subprocess.run(
        argv, env=dict(bench.store.env), check=True, capture_output=True
    )
    return done.stdout.decode().strip()


async def test_targets_become_derivations_that_nix_can_build(bench: Bench) -> None:
    sha = commit_sample(bench.origin, "two-packages")
    results = await bench.evaluate(sha, "packages.*", "checks.*", "devShells.*")
    assert list(results) == ["packages.default", "packages.twin", "checks.works"]
    for result in results.values():
        assert (result.error, result.system) == (None, HERE)
        output = await asyncio.to_thread(realised, bench, result.derivation)
        assert result.outputs == {"out": output}
    assert bench.said == []


async def test_a_daemon_and_a_read_only_store_give_the_same(
    nix_daemon_store: NixStore, bubblewrap: Sandbox, tmp_path: Path
) -> None:
    bench = await bench_of(nix_daemon_store, bubblewrap, tmp_path)
    sha = commit_sample(bench.origin, "two-packages")
    results = await bench.evaluate(sha, "packages")
    twin = results["packages.twin"]
    output = await asyncio.to_thread(realised, bench, twin.derivation)
    assert twin.outputs == {"out": output}


async def test_without_a_sandbox_too(nix: NixStore, tmp_path: Path) -> None:
    bench = await bench_of(nix, Sandbox(None), tmp_path)
    sha = commit_sample(bench.origin, "two-packages")
    assert list(await bench.evaluate(sha, "packages.default")) == ["packages.default"]


async def test_every_kind_of_target_under_its_short_name(bench: Bench) -> None:
    sha = commit_sample(bench.origin, "kinds")
    results = await bench.evaluate(
        sha,
        *("packages.*", "packages.web-*", "devShells", "formatter", "checks.*"),
        *("homeConfigurations.*", 'homeConfigurations."alice@laptop.local"'),
        *(
            "nixosConfigurations.*",
            "nixosConfigurations.srv.config.system.build.isoImage",
        ),
        *(f"packages.{THERE}.*", "darwinConfigurations.mac"),
        *("legacyPackages.tool", "legacyPackages.python.requests"),
    )
    assert {name: (r.system, r.error) for name, r in results.items()} == {
        "packages.default": (HERE, None),
        "packages.multiple": (HERE, None),
        'packages."py3.12"': (HERE, None),
        "packages.web-app": (HERE, None),
        "packages.web-test": (HERE, None),
        "devShells.default": (HERE, None),
        "formatter": (HERE, None),
        'homeConfigurations."alice@laptop.local"': (HERE, None),
        "homeConfigurations.bob": (HERE, None),
        "nixosConfigurations.arm": (THERE, None),
        "nixosConfigurations.srv": (HERE, None),
        "nixosConfigurations.srv.config.system.build.isoImage": (HERE, None),
        f"packages.{THERE}.default": (THERE, None),
        "darwinConfigurations.mac": ("aarch64-darwin", None),
        "legacyPackages.tool": (HERE, None),
        "legacyPackages.python.requests": (HERE, None),
    }
    assert results["packages.multiple"].outputs.keys() == {"out", "dev"}


async def test_wildcards_over_systems_and_what_is_no_derivation(bench: Bench) -> None:
    sha = commit_sample(bench.origin, "kinds")
    results = await bench.evaluate(sha, "checks.*.*", "legacyPackages.*", "apps.*")
    found = {name: (r.system, r.error) for name, r in results.items()}
    removed = found.pop("legacyPackages.removed")
    assert found == {
        f"checks.{THERE}.far": (THERE, None),
        "legacyPackages.tool": (HERE, None),
        "apps.run": (None, "an app is not built: name the package that it runs"),
    }
    line = line_of("kinds", "removed =")
    assert removed == (None, f"flake.nix:{line}: removed was renamed to tool")


def line_of(flake: str, text: str) -> int:
    """Where in the flake.nix of a sample `text` first stands."""
    lines = sample(flake)["flake.nix"].splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


ERRORS = {
    "thrown": "flake.nix:LINE: the first line",
    "coloured": "flake.nix:LINE: red as a rose",
    "inLibrary": "library.nix:2: the library says no",
    "inAttribute": "library.nix:2: the library says no",
    "asserted": "assertion '(1 == 2)' failed",
    "aborted": "evaluation aborted with the following error message: 'deliberately'",
    "mistyped": "flake.nix:LINE: cannot add a string to an integer",
    "recursive": "flake.nix:LINE: infinite recursion encountered",
    "missing": "flake.nix:LINE: attribute 'helo' missing; did you mean hello?",
    "argument": "called with unexpected argument 'y'; did you mean x?",
    "deep": "stack overflow",
    "absolute": "access to absolute path '/etc/passwd' is forbidden in pure eval",
    "absent": "absent.nix'",
    "unparsable": "unparsable.nix:1: syntax error, unexpected ';'",
    "undefined": "undefined.nix:3: undefined variable 'libary'",
    "assertions": "failed assertions: No root file system.; No boot loader.",
    "text": "expected a derivation, found a string",
    "forged": "its drvPath is not a derivation of the store",
    "imported": "set `import_from_derivation = true` for this repository to allow it",
}


async def test_what_fails_says_why_in_one_line_and_spares_the_others(
    bench: Bench,
) -> None:
    sha = commit_sample(bench.origin, "errors")
    results = await bench.evaluate(sha, "packages.*", "checks.*", "packages.helo")
    wrong = {name: r for name, r in results.items() if r.error is not None}
    checks = line_of("errors", "checks.${system} =")
    assert wrong.pop("checks.*").error == f"flake.nix:{checks}: no checks today"
    near = "attribute `helo` missing; did you mean hello?"
    assert wrong.pop("packages.helo").error == near
    assert wrong.keys() == {f"packages.{name}" for name in ERRORS}
    for name, expected in ERRORS.items():
        error = wrong[f"packages.{name}"].error
        assert error is not None
        assert expected.replace("LINE", str(line_of("errors", f" {name} ="))) in error
        assert error.isprintable()
        assert len(error) <= 200
        assert str(bench.store.root) not in error
        assert str(bench.mirror.path) not in error
    good = {name for name, result in results.items() if result.derivation is not None}
    assert good == {"packages.good", "packages.hello", "packages.zzz"}
    log = b"".join(bench.said).decode()
    assert f"while evaluating packages.{HERE}.mistyped:\nerror:" in log
    assert f'{line_of("errors", "mistyped")}|         mistyped = 1 + "a";' in log
    assert "«string»" not in log


async def test_more_failures_than_anybody_reads_are_not_all_explained(
    bench: Bench,
) -> None:
    def flake(value: str) -> dict[str, str]:
        named = f'n: {{ name = "p${{toString n}}"; value = {value}; }}'
        thirty = f"builtins.listToAttrs (builtins.genList ({named}) 30)"
        return {"flake.nix": f"{{ outputs = _: {{ packages.{HERE} = {thirty}; }}; }}"}

    thrown = await bench.errors(bench.origin.commit(flake('throw "no"')), "packages.*")
    assert len(thrown) == 30
    assert thrown["packages.p0"] == "flake.nix:1: no"
    assert thrown["packages.p9"].endswith(
        "see it with `nix eval .#packages.p9.drvPath`"
    )
    ended = await bench.errors(bench.origin.commit(flake('abort "no"')), "packages.*")
    assert len(ended) == 30
    unread = [error for error in ended.values() if error.startswith("not evaluated")]
    assert len(unread) == 10


@pytest.mark.parametrize(
    ("files", "patterns", "message"),
    [
        (
            sample("modules-only"),
            ["packages.*", "checks.*"],
            "no target matches `packages.*`, `checks.*`; this flake has "
            f"homeModules.default, nixosModules.default, packages.{THERE}.default",
        ),
        (
            {
                "flake.nix": f"{{ outputs = _: {{ legacyPackages.{HERE}.lib = {{ }}; }}; }}"
            },
            ["legacyPackages.*"],
            "what is there are no derivations",
        ),
        (
            {"flake.nix": "{ outputs = { self }: { }; }"},
            ["packages.*"],
            "it has no outputs",
        ),
        (
            sample("kinds"),
            ["homeConfiguration.*", "packages.website-*"],
            "no target matches `homeConfiguration.*`, `packages.website-*`; did you mean "
            "one of homeConfigurations.*, homeConfigurations.bob, packages.web-test?",
        ),
        (
            {"flake.nix": "{\n  outputs = _: { packages = pkgs; };\n}"},
            ["packages.*"],
            "flake.nix:2: undefined variable 'pkgs'",
        ),
        (
            {"flake.nix": "{ outputs = ; }"},
            ["*"],
            "the target pattern `*` cannot be read",
        ),
        (
            {"flake.nix": "{ outputs = ; }"},
            ["packages.*"],
            "flake.nix:1: syntax error, unexpected ';'",
        ),
        (
            {"flake.nix": '{ outputs = x: throw "gone"; }'},
            ["packages.*"],
            "flake.nix:1: gone",
        ),
        ({"README": "no flake"}, ["packages.*"], "no flake.nix in the root of this"),
        (
            {
                "flake.nix": sample("inputs", URL="https://flakes.example/x.tar.gz")[
                    "flake.nix"
                ]
            },
            ["packages.*"],
            "flake.lock does not lock the input `dep`: run `nix flake lock`",
        ),
        (
            {"flake.nix": "{ }", "flake.lock": "<<<<<<< HEAD"},
            ["packages.*"],
            "flake.lock is not a lock file",
        ),
    ],
)
async def test_a_flake_that_cannot_be_used_is_the_commits_fault(
    bench: Bench, files: dict[str, str], patterns: list[str], message: str
) -> None:
    with pytest.raises(CommitFault) as caught:
        await bench.evaluate(bench.origin.commit(files), *patterns)
    assert message in str(caught.value)


async def test_a_flake_in_a_directory(bench: Bench) -> None:
    files = sample("two-packages")
    sha = bench.origin.commit({"nix ci/flake.nix": files["flake.nix"]})
    results = await bench.evaluate(sha, "packages.default", directory="nix ci")
    assert results["packages.default"].error is None
    with pytest.raises(CommitFault, match=r"no flake.nix in the directory other"):
        await bench.evaluate(sha, "packages.default", directory="other")


async def test_evaluation_has_no_network(bench: Bench, input_host: InputServer) -> None:
    url = input_host.serve("x.tar.gz")
    body = f'builtins.fetchTarball {{ url = "{url}"; sha256 = "{"0" * 52}"; }}'
    flake = f"{{ outputs = _: {{ packages.{HERE}.x = import ({body}); }}; }}"
    errors = await bench.errors(bench.origin.commit({"flake.nix": flake}), "packages.*")
    assert f"asked the network for {url}, but it has none" in errors["packages.x"]
    assert input_host.requests == []


IMPORTS = """{
  outputs = _:
    let
      make = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" script ];
      };
      other = ''derivation { name = "other"; system = "other-linux"; builder = "b"; }'';
    in
    {
      packages.x86_64-linux = {
        works = import (make "made" "echo '${other}' > $out");
        breaks = import (make "breaks" "exit 7");
      };
    };
}
"""


async def test_import_from_derivation_when_it_is_allowed(bench: Bench) -> None:
    sha = bench.origin.commit({"flake.nix": for_this_machine(IMPORTS)})
    results = await bench.evaluate(sha, "packages.*", building=True)
    assert results["packages.works"].system == "other-linux"
    error = results["packages.breaks"].error
    assert error is not None
    assert "breaks" in error
    assert "exit code 7" in error


MOST_CANCELS = 8
ENDLESS = (
    "builtins.foldl' (a: n: a + builtins.length (builtins.genList (x: x) 50000)) 0 "
    "(builtins.genList (x: x) 300000)"
)


def endless(value: str) -> dict[str, str]:
    body = f'packages.{HERE}.slow = builtins.trace "begun" ({value});'
    return {"flake.nix": f"{{ outputs = _: {{ {body} }}; }}"}


async def test_evaluation_ends_in_time(
    nix: NixStore, bubblewrap: Sandbox, tmp_path: Path
) -> None:
    # It must have come to the target by then.
    bench = await bench_of(nix, bubblewrap, tmp_path, timeout=8.0)
    sha = bench.origin.commit(endless(ENDLESS))
    with pytest.raises(CommitFault, match=r"took longer than 8s, at packages\.slow"):
        await bench.evaluate(sha, "packages.*")


async def test_evaluation_has_only_so_much_memory(
    nix: NixStore, bubblewrap: Sandbox, tmp_path: Path
) -> None:
    bench = await bench_of(nix, bubblewrap, tmp_path, memory=GIB // 4)
    big = "builtins.deepSeq (builtins.genList (x: builtins.genList (y: [ y ]) 999) 99999) 1"
    sha = bench.origin.commit(endless(big))
    with pytest.raises(
        HostLimit, match=r"more than 0.25 GiB of memory, at packages.slow"
    ):
        await bench.evaluate(sha, "packages.*")


async def test_cancelling_leaves_no_process(bench: Bench) -> None:
    sha = bench.origin.commit(endless(ENDLESS))
    # A process that does not hear TERM costs all of its grace each time; one that does
    # is slow only while this machine is.
    took: list[float] = []
    while len(took) < MOST_CANCELS and min(took, default=GRACE) >= GRACE * 3 / 4:
        took.append(await _cancelled(bench, sha))
    assert min(took) < GRACE * 3 / 4, took


async def _cancelled(bench: Bench, sha: str) -> float:
    """Cancel an evaluation; return after how many seconds it had ended."""
    bench.said.clear()
    evaluation = asyncio.create_task(bench.evaluate(sha, "packages.*"))
    await wait_until(lambda: b"trace: begun\n" in bench.said, what="the evaluation")
    assert processes_about(bench.mirror.path)
    loop = asyncio.get_running_loop()
    before = loop.time()
    evaluation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await evaluation
    took = loop.time() - before
    # The kernel takes a moment to take a large process apart.
    await wait_until(lambda: not processes_about(bench.mirror.path), what="nobody left")
    return took


def processes_about(path: Path) -> list[Path]:
    """Processes with `path` on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(path) in process.read_bytes():
                found.append(process)
        except OSError:
            continue
    return found


async def test_a_mirror_that_lacks_the_commit_is_ours(bench: Bench) -> None:
    sha = commit_sample(bench.origin, "two-packages")
    url = (await bench.url(sha)).replace(sha, "0" * 40)
    place: Any = {"mirror": bench.mirror.path, "cache": bench.cache}
    with pytest.raises(HostFault, match="the mirror lacks commit 0000"):
        await bench.evaluator.fetch_inputs(url, **place, say=bench.said.append)
    with pytest.raises(HostFault, match="Nix cannot read the mirror"):
        await bench.evaluator.evaluate(
            url,
            ["packages.*"],
            **place,
            import_from_derivation=False,
            say=bench.said.append,
        )


async def test_a_nix_that_does_not_start_is_ours(
    nix: NixStore, bubblewrap: Sandbox, tmp_path: Path
) -> None:
    bench = await bench_of(nix, bubblewrap, tmp_path)
    url = await bench.url(commit_sample(bench.origin, "two-packages"))
    found = await discover(nix.program, nix.env)
    lost = replace(found, env={**found.env, "NIX_REMOTE": "daemon"})
    evaluator = Evaluator(lost, bubblewrap, memory=GIB, timeout=30.0, env=PATH)
    with pytest.raises(HostFault):
        await evaluator.evaluate(
            url,
            ["packages.*"],
            mirror=bench.mirror.path,
            cache=bench.cache,
            import_from_derivation=False,
            say=bench.said.append,
        )
