"""nix/harness with the real home-manager: what the server builds of a module.

How the server uses it is in tests/end_to_end/test_harness.py.
"""

from __future__ import annotations

import json
import re

import pytest

from ci.adapters.nix_eval.faults import Places, first_line
from tests.fakes.tree import CHECKOUT
from tests.nix.evaluation import NO_HOME_MANAGER, Evaluation, EvaluationFailed

PLACES = Places("/nix/store", "/mirror")
OUTPUTS = """\
let
  flake = import (root + "/nix/harness/flake.nix");
  nixpkgs = { inherit lib; legacyPackages.x86_64-linux = pkgs; };
  home-manager = (import (homeManager + "/flake.nix")).outputs { self = { }; inherit nixpkgs; };
  homesOf = homeModules:
    (flake.outputs {
      inherit home-manager;
      nixpkgs = throw "the flake's own is taken";
      tested = { inherit homeModules; inputs = { inherit nixpkgs; }; };
    }).packages.x86_64-linux;
in
"""


@pytest.fixture
def real(evaluation: Evaluation) -> Evaluation:
    if evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    return evaluation


def test_our_own_modules_are_homes(real: Evaluation) -> None:
    names = ("bootstrap", "services", "terminal", "build-client")
    modules = " ".join(
        f'{name} = root + "/nix/modules/home/{name}.nix";' for name in names
    )
    own = '{ home.username = "me"; home.homeDirectory = "/home/me"; }'
    ask = (
        f"builtins.mapAttrs (_: home: home.name) (homesOf {{ {modules} own = {own}; }})"
    )
    homes = real.ask(OUTPUTS + ask)
    assert homes == dict.fromkeys((*names, "own"), "home-manager-generation")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (
            '{ assertions = [ { assertion = false; message = "write theme"; } '
            '{ assertion = false; message = "write font"; } ]; }',
            "failed assertions: write theme; write font",
        ),
        ('{ home.homeDirectory = throw "no home"; }', "no home"),
        ("{ services.tailscale.enable = true; }", "The option `services.tailscale'"),
    ],
)
def test_what_a_module_says_is_the_line_that_people_get(
    real: Evaluation, module: str, line: str
) -> None:
    with pytest.raises(EvaluationFailed) as refused:
        real.ask(OUTPUTS + f"(homesOf {{ it = {module}; }}).it.drvPath")
    assert first_line(str(refused.value), PLACES).startswith(line)


def test_the_inputs_are_those_of_this_flake() -> None:
    """One `nix flake update` is for both: they are updated together or not at all."""
    ours, root = (
        json.loads((CHECKOUT / path).read_text())["nodes"]
        for path in ("nix/harness/flake.lock", "flake.lock")
    )
    for name in ("nixpkgs", "home-manager"):
        assert ours[name] == root[name], f"copy the node {name} from flake.lock"
    text, whole = (
        (CHECKOUT / path).read_text() for path in ("nix/harness/flake.nix", "flake.nix")
    )
    urls = re.findall(r'url = "(github:[^"]*)"', text)
    assert len(urls) == 2
    assert all(url in whole for url in urls)
