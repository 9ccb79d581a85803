"""nix/modules/home/bootstrap.nix and build-client.nix: clients, aliases, one history."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ci.client import address
from tests.nix import units
from tests.nix.conftest import EvaluateHome, EvaluateNixos
from tests.nix.evaluation import NO_HOME_MANAGER, Evaluation, EvaluationFailed
from tests.nix.homes import (
    BOOTSTRAP,
    CLIENT,
    KEY,
    SERVICES,
    TERMINAL,
    WHOLE,
    activated,
    activation,
)

NIXOS_CLIENT = Path("nix/modules/nixos/build-client.nix")
USUAL = f"""{{
  programs.bootstrap = {{
    enable = true;
    buildServer = {{ enable = true; address = "build-server"; publicKey = "{KEY}"; }};
    atuin = {{ enable = true; syncServer = "https://api.atuin.sh"; }};
  }};
  programs.bash.enable = true;
  programs.zsh.enable = true;
}}"""
ASK = WHOLE | {
    "aliases": "config.home.shellAliases",
    "packages": "map (one: one.pname or one.name) config.home.packages",
    "client": 'config.xdg.configFile."build-server/client.toml".source.value',
    "atuin": 'config.xdg.configFile."atuin/config.toml".source.value',
    "files": "builtins.attrNames config.xdg.configFile",
    "zsh": "config.programs.zsh.initContent",
    "bash": "config.programs.bash.initExtra",
}
NIX_CONF = 'config.xdg.configFile."build-server/nix.conf".text'
BARE = """{
  programs.bootstrap = {
    enable = true;
    buildServer.enable = true;
    atuin.enable = true;
  };
}"""
SEED_SETTINGS = {
    "auto_sync": True,
    "sync_address": "https://api.atuin.sh",
    "sync_frequency": "5m",
    "search_mode": "fuzzy",
    "filter_mode_shell_up_key_binding": "directory",
    "style": "compact",
    "inline_height": 20,
    "history_filter": ["^secret", "^password"],
}


def test_what_every_machine_has(each_evaluation: Evaluation) -> None:
    said = each_evaluation.home(BOOTSTRAP, USUAL, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["aliases"] == {
        "bt": "build-trigger",
        "bs": "build-status",
        "bl": "build-logs",
        "rebuild": "home-manager switch --flake path:/home/alice/.config/home-manager",
    }
    wanted = {"build-client", "system-update", "bootstrap-new-machine", "atuin"}
    assert wanted <= set(said["packages"])
    assert "home-manager" in said["packages"]
    assert said["atuin"] == SEED_SETTINGS
    assert "atuin init zsh" in said["zsh"]
    assert "atuin init bash" in said["bash"]


def test_all_modules_together(each_evaluation: Evaluation) -> None:
    """As homeModules.default has them, switched on and not."""
    modules = (BOOTSTRAP, SERVICES, TERMINAL, CLIENT)
    more = """{
      programs.terminal.enable = true;
      services.bootstrap-services.tailscale.enable = true;
    }"""
    said = each_evaluation.home(*modules, USUAL, more, ask=WHOLE)
    assert (said["failed"], said["warnings"]) == ([], [])
    nothing = {"with": "map (one: one.name) config.home.packages"}
    without = each_evaluation.home("{ }", ask=nothing)
    assert each_evaluation.home(*modules, ask=nothing) == without


def test_the_file_is_what_the_clients_read(
    eval_home: EvaluateHome, tmp_path: Path
) -> None:
    said = eval_home(BOOTSTRAP, USUAL, ask=ASK)
    text = units.toml(said["client"])
    assert tomllib.loads(text) == {
        "server": "http://build-server:8000",
        "cache": {"url": "http://build-server:5000", "public_key": KEY},
    }
    file = tmp_path / "build-server/client.toml"
    file.parent.mkdir()
    file.write_text(text)
    found = address.find(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (found.host, found.port, found.source) == ("build-server", 8000, str(file))


ADDRESSES = {
    "build-server": "http://build-server:8000",
    "build-server:9000": "http://build-server:9000",
    "100.64.0.1": "http://100.64.0.1:8000",
    "[fd7a::1]": "http://[fd7a::1]:8000",
    "[fd7a::1]:81": "http://[fd7a::1]:81",
    "https://builder.example.ts.net": "https://builder.example.ts.net",
    "unix:/run/build-server/private.sock": "unix:/run/build-server/private.sock",
}


def test_an_address_is_what_the_clients_make_of_it(evaluation: Evaluation) -> None:
    if evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    asked = " ".join(
        f"""(evalHome {{ modules = [
          {BOOTSTRAP.absolute()} ({BARE})
          {{ programs.bootstrap.buildServer.address = "{typed}"; }}
        ]; }}).{ASK["client"]}.server"""
        for typed in ADDRESSES
    )
    assert evaluation.ask(f"[ {asked} ]") == list(ADDRESSES.values())
    for typed, server in ADDRESSES.items():
        assert vars(address.Address(typed, "")) == vars(address.Address(server, ""))


def test_each_default_is_overridden_in_one_line(eval_home: EvaluateHome) -> None:
    own = """{
      home.shellAliases.bt = "build-trigger --wait";
      home.shellAliases.rebuild = "make switch";
      programs.atuin.settings.style = "full";
      programs.atuin.settings.sync_frequency = "0";
      programs.atuin.settings.history_filter = [ "^mine" ];
      programs.atuin.enableBashIntegration = false;
      programs.build-client.cacheUrl = "https://cache.example";
      programs.home-manager.enable = false;
      programs.bootstrap.scripts = [ ];
    }"""
    said = eval_home(BOOTSTRAP, USUAL, own, ask=ASK)
    assert said["aliases"]["bt"] == "build-trigger --wait"
    assert said["aliases"]["rebuild"] == "make switch"
    assert said["aliases"]["bs"] == "build-status"
    assert said["atuin"] == SEED_SETTINGS | {
        "style": "full",
        "sync_frequency": "0",
        "history_filter": ["^mine"],
    }
    assert "atuin" not in said["bash"]
    assert said["client"]["cache"]["url"] == "https://cache.example"
    assert {"home-manager", "system-update"}.isdisjoint(said["packages"])


def test_the_flake_may_be_elsewhere(eval_home: EvaluateHome) -> None:
    own = '{ programs.bootstrap.flake = "/home/alice/my machines"; }'
    variable = "config.home.sessionVariables.SYSTEM_UPDATE_FLAKE or null"
    said = eval_home(BOOTSTRAP, USUAL, own, ask=ASK | {"variable": variable})
    wanted = "home-manager switch --flake 'path:/home/alice/my machines'"
    assert said["aliases"]["rebuild"] == wanted
    assert said["variable"] == "/home/alice/my machines"
    assert eval_home(BOOTSTRAP, USUAL, ask=variable) is None


def test_parts_are_switched_on_one_by_one(eval_home: EvaluateHome) -> None:
    only = "{ programs.bootstrap.enable = true; }"
    said = eval_home(BOOTSTRAP, only, ask=WHOLE | {"files": ASK["files"]})
    assert not {"build-server/client.toml", "atuin/config.toml"} & set(said["files"])
    off = USUAL.replace("enable = true;", "enable = false;", 1)
    aliases = eval_home(BOOTSTRAP, off, ask="config.home.shellAliases")
    assert aliases == {}


def test_the_client_alone(eval_home: EvaluateHome) -> None:
    only = (
        '{ programs.build-client = { enable = true; server = "https://b.example"; }; }'
    )
    ask = WHOLE | {"client": ASK["client"], "files": ASK["files"]}
    said = eval_home(CLIENT, only, ask=ask)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["client"] == {"server": "https://b.example"}
    assert "build-server/nix.conf" not in said["files"]


def test_what_a_home_cannot_do_is_said_when_it_is_switched_to(
    eval_home: EvaluateHome,
) -> None:
    said = eval_home(
        BOOTSTRAP,
        USUAL,
        ask={"step": activation("buildServerCache"), "conf": NIX_CONF},
    )
    assert said["conf"] == (
        "extra-substituters = http://build-server:5000\n"
        f"extra-trusted-public-keys = {KEY}\n"
        "connect-timeout = 3\n"
        "download-attempts = 1\n"
        "stalled-download-timeout = 15\n"
        "fallback = true\n"
        "narinfo-cache-negative-ttl = 60\n"
    )
    printed = activated(said["step"])
    assert "Nix does not know the cache http://build-server:5000 yet" in printed
    assert (
        'programs.build-client = { enable = true; server = "http://build-server:8000"; '
        f'cacheUrl = "http://build-server:5000"; publicKey = "{KEY}"; }};' in printed
    )
    file = "/home/alice/.config/build-server/nix.conf"
    assert f"sudo tee -a /etc/nix/nix.conf < {file}" in printed


def test_a_machine_that_knows_the_key_is_told_nothing(
    eval_home: EvaluateHome, tmp_path: Path
) -> None:
    """On NixOS /etc/nix/nix.conf is a link; elsewhere keys may be in a file beside it."""
    step = eval_home(BOOTSTRAP, USUAL, ask=activation("buildServerCache"))
    made, etc = tmp_path / "made.conf", tmp_path / "etc"
    etc.mkdir()
    made.write_text(f"trusted-public-keys = other-1:abc= {KEY}\n")
    assert "does not know the cache" in activated(step, NIX_CONF_DIR=str(etc))
    (etc / "nix.conf").symlink_to(made)
    assert activated(step, NIX_CONF_DIR=str(etc)) == ""
    (etc / "nix.conf").unlink()
    (etc / "nix.conf").write_text("!include nix.custom.conf\n")
    assert "does not know the cache" in activated(step, NIX_CONF_DIR=str(etc))
    made.rename(etc / "nix.custom.conf")
    assert activated(step, NIX_CONF_DIR=str(etc)) == ""


def test_what_the_note_says_to_write_evaluates(
    eval_home: EvaluateHome, eval_nixos: EvaluateNixos
) -> None:
    """Copied into a NixOS configuration, it is one, and the cache is known."""
    step = eval_home(BOOTSTRAP, USUAL, ask=activation("buildServerCache"))
    (line,) = (
        line for line in activated(step).splitlines() if "programs.build-client" in line
    )
    said = eval_nixos(NIXOS_CLIENT, f"{{ {line} }}", ask="config.nix.settings")
    assert said["substituters"] == ["http://build-server:5000"]
    assert said["trusted-public-keys"] == [KEY]


def test_who_is_trusted_writes_it_into_his_own_nix_conf(
    eval_home: EvaluateHome,
) -> None:
    own = "{ programs.build-client.nixConf = true; }"
    said = eval_home(
        BOOTSTRAP,
        USUAL,
        own,
        ask=WHOLE
        | {
            "nix": "config.nix.settings",
            "files": ASK["files"],
            "steps": "builtins.attrNames config.home.activation",
        },
    )
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["nix"] == {
        "extra-substituters": ["http://build-server:5000"],
        "extra-trusted-public-keys": [KEY],
        "connect-timeout": 3,
        "download-attempts": 1,
        "stalled-download-timeout": 15,
        "fallback": True,
        "narinfo-cache-negative-ttl": 60,
    }
    assert "nix/nix.conf" in said["files"]
    assert "buildServerCache" not in said["steps"]


def test_inside_nixos_the_machine_is_asked(eval_nixos: EvaluateNixos) -> None:
    """home-manager as a module of NixOS: what is missing there is known here."""
    home = f"""{{
      users.users.alice.isNormalUser = true;
      home-manager.users.alice = {{
        imports = [ {Path(BOOTSTRAP).absolute()} ({USUAL}) ];
        home.stateVersion = "26.05";
      }};
    }}"""
    ask = {
        "warnings": "config.home-manager.users.alice.warnings",
        "aliases": "config.home-manager.users.alice.home.shellAliases",
    }
    said = eval_nixos('(homeManager + "/nixos")', home, ask=ask)
    (warning,) = said["warnings"]
    assert "Nothing is fetched from http://build-server:5000" in warning
    assert "Write in the NixOS configuration" in warning
    assert said["aliases"]["rebuild"] == (
        "sudo nixos-rebuild switch --flake path:/etc/nixos"
    )
    client = f'{{ programs.build-client = {{ enable = true; publicKey = "{KEY}"; }}; }}'
    said = eval_nixos('(homeManager + "/nixos")', NIXOS_CLIENT, client, home, ask=ask)
    assert said["warnings"] == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('buildServer.publicKey = "build-server-1:abc=";', "44 characters after"),
        ('buildServer.publicKey = "AAAAAAAAAAAA";', 'e.g. "build-server-1:AAAA'),
        (
            'buildServer.address = "build server";',
            '"build-server" or "build-server:9000',
        ),
        ("buildServer.address = 8000;", "name of a host"),
        ('atuin.syncServer = "api.atuin.sh";', 'e.g. "https://api.atuin.sh"'),
        ('atuin.syncFrequency = "abc";', 'duration for Atuin such as "5m"'),
        ('flake = "~/machines";', "absolute path of a directory, in quotes"),
        ('buildServer.enable = "yes";', "is not of type `boolean'"),
        ('buildServer.adress = "x";', "does not exist"),
    ],
)
def test_a_wrong_value_says_what_to_write(
    eval_home: EvaluateHome, more: str, words: str
) -> None:
    with pytest.raises(EvaluationFailed, match=words):
        eval_home(BOOTSTRAP, BARE, f"{{ programs.bootstrap = {{ {more} }}; }}", ask=ASK)


def test_a_key_without_a_cache_is_refused(eval_home: EvaluateHome) -> None:
    own = "{ programs.build-client.cacheUrl = null; }"
    words = 'Write programs.build-client.cacheUrl = "http://build-server:5000";'
    with pytest.raises(EvaluationFailed, match=words):
        eval_home(BOOTSTRAP, USUAL, own, ask=WHOLE)
