"""nix/modules/home/terminal.nix: zsh, Atuin, Neovim or one's own, tools."""

from __future__ import annotations

import pytest

from tests.nix.conftest import EvaluateHome
from tests.nix.evaluation import Evaluation, EvaluationFailed
from tests.nix.homes import TERMINAL, WHOLE

USUAL = "{ programs.terminal.enable = true; }"
ASK = WHOLE | {
    "packages": "map (one: one.pname or one.name) config.home.packages",
    "zsh": "config.programs.zsh.initContent",
    "variables": "config.home.sessionVariables",
    "aliases": "config.home.shellAliases",
    "files": "builtins.attrNames config.home.file",
    "fzf": "config.programs.fzf.historyWidget.command",
}


def test_a_terminal_to_work_in(each_evaluation: Evaluation) -> None:
    said = each_evaluation.home(TERMINAL, USUAL, ask=ASK)
    # No word of Ctrl-R, which fzf and Atuin both want.
    assert (said["failed"], said["warnings"]) == ([], [])
    wanted = {"zsh", "atuin", "neovim-wrapped", "fd", "jq", "ripgrep", "fzf", "direnv"}
    assert wanted <= set(said["packages"])
    assert "atuin init zsh" in said["zsh"]
    assert said["fzf"] == ""
    assert said["variables"]["EDITOR"] == "nvim"
    assert any(name.endswith(".zshrc") for name in said["files"])


def test_home_manager_of_a_stable_release_will_do(eval_home: EvaluateHome) -> None:
    """26.05 has another module for fzf, in which Atuin's Ctrl-R comes later by itself."""
    stable = """{ lib, ... }: {
      disabledModules = [ "programs/fzf.nix" ];
      options.programs.fzf = {
        enable = lib.mkEnableOption "fzf";
        historyWidgetOptions = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
        };
      };
    }"""
    ask = {**WHOLE, "fzf": "config.programs.fzf"}
    said = eval_home(TERMINAL, USUAL, stable, ask=ask)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["fzf"] == {"enable": True, "historyWidgetOptions": []}


def test_a_neovim_and_packages_of_ones_own(eval_home: EvaluateHome) -> None:
    own = """{ pkgs, ... }: {
      programs.terminal.neovim.package = pkgs.writeShellScriptBin "my-nixvim" "";
      programs.terminal.extraPackages = [ (pkgs.writeShellScriptBin "devman" "") ];
    }"""
    said = eval_home(TERMINAL, USUAL, own, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert {"my-nixvim", "devman"} <= set(said["packages"])
    assert "neovim-wrapped" not in said["packages"]
    assert said["variables"]["EDITOR"] == "nvim"
    assert (said["aliases"]["vi"], said["aliases"]["vim"]) == ("nvim", "nvim")


def test_two_neovims_are_refused(eval_home: EvaluateHome) -> None:
    own = """{ pkgs, ... }: {
      programs.terminal.neovim.package = pkgs.writeShellScriptBin "my-nixvim" "";
      programs.neovim.enable = true;
    }"""
    with pytest.raises(
        EvaluationFailed, match=r"Write programs\.neovim\.enable = false;"
    ):
        eval_home(TERMINAL, USUAL, own, ask=WHOLE)


def test_each_default_is_overridden_in_one_line(eval_home: EvaluateHome) -> None:
    own = """{ pkgs, ... }: {
      programs.terminal.tools = [ pkgs.tree ];
      programs.terminal.atuin.enable = false;
      programs.terminal.neovim.defaultEditor = false;
      programs.direnv.enable = false;
      programs.zsh.autocd = false;
    }"""
    autocd = {"autocd": "config.programs.zsh.autocd"}
    said = eval_home(TERMINAL, USUAL, own, ask=ASK | autocd)
    assert "tree" in said["packages"]
    assert {"fd", "atuin", "direnv"}.isdisjoint(said["packages"])
    assert "EDITOR" not in said["variables"]
    assert said["autocd"] is False
    # Ctrl-R is fzf's again.
    assert said["fzf"] is None
    without = """{
      programs.terminal.zsh.enable = false;
      programs.terminal.neovim.enable = false;
    }"""
    said = eval_home(TERMINAL, USUAL, without, ask=ASK["packages"])
    assert {"zsh", "neovim-wrapped"}.isdisjoint(said)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('extraPackages = [ "devman" ];', "is not of type"),
        ('neovim.package = "nvim";', "is not of type"),
        ("nvim.enable = true;", "does not exist"),
    ],
)
def test_a_wrong_value_is_refused(
    eval_home: EvaluateHome, more: str, words: str
) -> None:
    with pytest.raises(EvaluationFailed, match=words):
        eval_home(TERMINAL, USUAL, f"{{ programs.terminal = {{ {more} }}; }}", ask=ASK)
