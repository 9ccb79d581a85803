"""Evaluate our modules with the real home-manager and the real `lib` of nixpkgs.

Packages, and the options of NixOS, are stand-ins (tests/samples/nix-eval). One call is
one `nix-instantiate`, about a quarter of a second: ask many things in one call.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.fakes.nix_stores import NixProgram
from tests.fakes.tree import CHECKOUT

SAMPLES = CHECKOUT / "tests/samples/nix-eval"
LIMIT = 240.0
ONLY_PARSED = "parsed and not evaluated (see CONTRIBUTING.md, Nix modules)"
NO_HOME_MANAGER = f"HOME_MANAGER is not set: home modules are {ONLY_PARSED}"
MAIN = """\
let
  root = {root};
  homeManager = {home_manager};
  nixosWsl = {nixos_wsl};
  harness = import {harness} {{
    inherit homeManager nixosWsl;
    nixpkgsLib = {lib};
    overlays = [ {overlays} ];
  }};
  inherit (harness) lib pkgs packagesFor evalHome evalNixos;
in
{expression}
"""


class EvaluationFailed(AssertionError):
    """Nix refused; `str()` is everything it said."""


@dataclass(frozen=True)
class Checkouts:
    """Where nixpkgs' `lib`, home-manager and NixOS-WSL are, as far as they are here."""

    nixpkgs_lib: Path
    home_manager: Path | None = None
    nixos_wsl: Path | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Checkouts:
        """Those that NIXPKGS_LIB, HOME_MANAGER and NIXOS_WSL name; else skips aloud."""
        named = {
            name: Path(environment[name]).resolve()
            for name in ("NIXPKGS_LIB", "HOME_MANAGER", "NIXOS_WSL")
            if environment.get(name)
        }
        if "NIXPKGS_LIB" not in named:
            pytest.skip(f"NIXPKGS_LIB is not set: modules are {ONLY_PARSED}")
        for name, path in named.items():
            assert (path / "default.nix").exists(), f"{name}={path} has no default.nix"
        return cls(
            named["NIXPKGS_LIB"], named.get("HOME_MANAGER"), named.get("NIXOS_WSL")
        )

    @classmethod
    def whole(cls, environment: Mapping[str, str]) -> Checkouts:
        """The same, when home-manager is among them; else skips aloud."""
        found = cls.of(environment)
        if found.home_manager is None:
            pytest.skip(NO_HOME_MANAGER)
        return found


@dataclass(frozen=True)
class Evaluation:
    """One Nix with checkouts to evaluate against. `work` is a directory of its own."""

    nix: NixProgram
    checkouts: Checkouts
    work: Path

    def ask(self, expression: str, *, overlays: str = "") -> Any:
        """The value of a Nix expression, as JSON gives it. Raises EvaluationFailed.

        In scope: `root` (this checkout), `homeManager` and `nixosWsl` (their paths, or
        null), `lib`, `pkgs`, `packagesFor system`, `evalHome` and `evalNixos`, both
        called as `evalHome { modules = [ … ]; }`. `overlays` are expressions of
        overlays, separated by spaces.
        """
        main = MAIN.format(
            root=CHECKOUT,
            harness=self.work / "nix-eval",
            lib=self.checkouts.nixpkgs_lib,
            home_manager=self.checkouts.home_manager or "null",
            nixos_wsl=self.checkouts.nixos_wsl or "null",
            overlays=overlays,
            expression=expression,
        )
        return json.loads(instantiate(self.nix, self.work, main))

    def home(self, *modules: str | Path, ask: str | Mapping[str, str]) -> Any:
        """What a home configuration of these modules says; see `_configured`."""
        if self.checkouts.home_manager is None:
            pytest.skip(NO_HOME_MANAGER)
        return self.ask(_configured("evalHome", modules, ask))

    def nixos(
        self,
        *modules: str | Path,
        ask: str | Mapping[str, str],
        wsl: bool = False,
        old_harmonia: bool = False,
    ) -> Any:
        """What a NixOS configuration of these modules says; see `_configured`.

        `wsl`: with NixOS-WSL's modules, the real ones where NIXOS_WSL names them.
        `old_harmonia`: in a nixpkgs from before `services.harmonia.cache`.
        """
        more = {"wsl": wsl, "oldHarmonia": old_harmonia}
        return self.ask(_configured("evalNixos", modules, ask, more))


def _configured(
    evaluator: str,
    modules: tuple[str | Path, ...],
    ask: str | Mapping[str, str],
    more: Mapping[str, bool] = MappingProxyType({}),
) -> str:
    """A module is an expression, or the path of a file relative to the checkout.

    `ask` is an expression, or a name for each of several: the answer is then an object.
    In their scope: config, options, pkgs, lib, failed (the messages of the assertions
    that do not hold), warnings.
    """
    given = " ".join(
        str(CHECKOUT / module) if isinstance(module, Path) else f"({module})"
        for module in modules
    )
    if isinstance(ask, Mapping):
        ask = "{ " + " ".join(f"{json.dumps(k)} = {v};" for k, v in ask.items()) + " }"
    arguments = " ".join(f"{name} = {json.dumps(on)};" for name, on in more.items())
    return f"""
      let evaluated = {evaluator} {{ modules = [ {given} ]; {arguments} }};
      in let inherit (evaluated) config options failed warnings; in {ask}
    """


def prepared(nix: NixProgram, checkouts: Checkouts, work: Path) -> Evaluation:
    """Lay the stand-ins into `work`, with the real `lib` where nixpkgs has it."""
    shutil.copytree(SAMPLES, work / "nix-eval")
    (work / "nix-eval/nixpkgs/lib").symlink_to(checkouts.nixpkgs_lib)
    return Evaluation(nix, checkouts, work)


def instantiate(nix: NixProgram, work: Path, expression: str) -> str:
    """What `nix-instantiate --eval --strict --json` prints; writes to no store."""
    program = Path(nix.program).with_name("nix-instantiate")
    done = subprocess.run(
        [program, "--eval", "--strict", "--json", "-"],
        input=expression,
        env=environment(nix, work),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode != 0:
        raise EvaluationFailed(done.stderr)
    return done.stdout


def environment(nix: NixProgram, work: Path) -> dict[str, str]:
    """Variables for a Nix that evaluates and has no store to write to."""
    settings = work / "nix.conf"
    if not settings.exists():
        settings.write_text("experimental-features = nix-command flakes\n")
    return {
        "PATH": f"{Path(nix.program).parent}:{os.environ['PATH']}",
        "HOME": str(work),
        "LANG": "C.UTF-8",
        "XDG_CACHE_HOME": str(work / "cache"),
        "NIX_CONF_DIR": str(work),
        "NIX_STATE_DIR": str(work / "state"),
        "NIX_REMOTE": "dummy://",
    }
