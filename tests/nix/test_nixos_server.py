"""nix/modules/nixos/build-server: what a machine gets, and what it is told when it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ci import config
from ci.adapters import sandbox
from tests.fakes.tree import CHECKOUT
from tests.nix import settings, units
from tests.nix.conftest import EvaluateNixos
from tests.nix.evaluation import Evaluation, EvaluationFailed

SERVER = Path("nix/modules/nixos/build-server")
GOLDEN = CHECKOUT / "tests/nix/golden"
KEY = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
# The least that works; `%s` takes more.
SMALLEST = """{
  services.build-server = {
    enable = true;
    settings.repository = [ { name = "owner/name"; } ];
    secrets.webhookSecretFile = "/run/secrets/webhook";
  };
}"""
USUAL = (
    """{
  networking.hostName = "builder";
  services.tailscale.enable = true;
  services.build-server = {
    enable = true;
    settings = {
      github.public_webhook_url = "https://builder.example-tailnet.ts.net/webhook";
      build = { parallel = 3; timeout = "45m"; sandbox = true; };
      disk.store_low = "10GiB";
      repository = [
        { name = "owner/name"; branches = [ "dev" "main" ]; policy = "latest"; }
        { name = "owner/site"; builder = "command"; command = [ "make" "ci" ]; }
      ];
    };
    secrets = {
      webhookSecretFile = "/run/secrets/webhook";
      webhookSecretOldFile = "/run/secrets/100%-old";
      githubTokenFile = "/run/secrets/github-token";
      apiTokenFile = "/run/secrets/api-token";
      notifyUrlsFile = "/run/secrets/notify";
    };
    harmonia = { enable = true; publicKey = "%KEY%"; };
    funnel.enable = true;
  };
}"""
).replace("%KEY%", KEY)
ASK = {
    "failed": "failed",
    "warnings": "warnings",
    "services": "config.systemd.services",
    "sockets": "config.systemd.sockets",
    "timers": "config.systemd.timers",
    "file": "config.services.build-server.configFile.unchecked.value",
    "firewall": "config.networking.firewall",
    "gc": "{ inherit (config.nix) gc optimise; }",
    "nix": "config.nix.settings",
    "user": "config.users.users.build-server",
    "toplevel": "config.system.build.toplevel.name",
}
# In the name of a socket: what stands in it.
MARK = re.compile(r"-[0-9a-f]{8}(?=\.socket)")
PARTS = {"services": "service", "sockets": "socket", "timers": "timer"}


def _units(said: Mapping[str, Any]) -> dict[str, str]:
    """The units that are ours, by their file names."""
    return {
        f"{name}.{kind}": units.unit(kind, options)
        for part, kind in PARTS.items()
        for name, options in said[part].items()
        if name.startswith("build-server")
    }


@pytest.fixture(scope="module")
def usual(evaluation: Evaluation) -> dict[str, Any]:
    said: dict[str, Any] = evaluation.nixos(SERVER, USUAL, ask=ASK)
    return said


def test_units_are_the_golden_ones(each_evaluation: Evaluation) -> None:
    """UPDATE_GOLDEN=1 writes them anew: then look at what git says has changed."""
    said = each_evaluation.nixos(SERVER, USUAL, ask=ASK)
    assert said["failed"] == []
    assert said["warnings"] == []
    ours = {
        MARK.sub("", name): MARK.sub("", units.without_hashes(text)).replace(
            "build-server-checked", "config"
        )
        for name, text in _units(said).items()
    }
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        for name, text in ours.items():
            (GOLDEN / name).write_text(text)
    golden = {path.name: path.read_text() for path in GOLDEN.glob("build-server*")}
    assert ours == golden


def test_every_key_of_the_configuration_is_an_option() -> None:
    assert settings.FILE.read_text() == settings.written(), (
        "run: python -m tests.nix.settings"
    )


def test_the_file_is_what_the_program_reads(usual: Mapping[str, Any]) -> None:
    parsed = config.parse(usual["file"])
    assert parsed.public_url == "http://builder:8000"
    assert str(parsed.listen.private) == "[::]:8000"
    assert parsed.build.timeout == 45 * 60
    assert parsed.disk.store_low == 10 * 2**30
    assert parsed.cache is not None
    assert parsed.cache.public_key == KEY
    assert [one.name for one in parsed.repositories] == ["owner/name", "owner/site"]
    assert parsed.repositories[0].branches == ("dev", "main")
    # Not written, so the program's own.
    assert "retention" not in usual["file"]
    assert parsed.build.keep == 3


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        ("", "good, 1 repository"),
        (
            'services.build-server.settings.build.tiemout = "2h";',
            "build.tiemout: unknown key; did you mean build.timeout?",
        ),
        (
            'services.build-server.settings.repository = [ { name = "x"; } ];',
            "repository",
        ),
    ],
)
def test_the_program_judges_the_file_while_the_system_is_built(
    eval_nixos: EvaluateNixos, tmp_path: Path, more: str, verdict: str
) -> None:
    """The commands of the derivation, run here: a wrong key ends the rebuild."""
    said = eval_nixos(
        SERVER,
        SMALLEST,
        f"{{ {more} }}",
        ask={
            "file": "config.services.build-server.configFile.unchecked.value",
            "commands": "config.services.build-server.configFile.cmd",
            "unchecked": '"${config.services.build-server.configFile.unchecked}"',
        },
    )
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/build-server"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m ci "$@"\n')
    program.chmod(0o755)
    source = tmp_path / "source.toml"
    source.write_text(units.toml(said["file"]))
    done = subprocess.run(
        ["bash", "-e", "-c", said["commands"].replace(said["unchecked"], str(source))],
        cwd=tmp_path,
        env={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
            "out": str(tmp_path / "out"),
        },
        capture_output=True,
        text=True,
    )
    assert verdict in done.stdout + done.stderr
    good = verdict.startswith("good")
    assert (done.returncode == 0) == good
    assert (tmp_path / "out").exists() == good


# A configuration on top of SMALLEST (or in its place), and the words of the sentence.
REFUSED = {
    "no secret": (
        "services.build-server.secrets.webhookSecretFile = lib.mkForce null;",
        "no secret to know them by. Write services.build-server.secrets.webhookSecretFile",
    ),
    "no repository": (
        "services.build-server.settings.repository = lib.mkForce [ ];",
        'Write e.g. services.build-server.settings.repository = [ { name = "owner/name"; } ];',
    ),
    "unknown table": (
        "services.build-server.settings.bild.parallel = 1;",
        "services.build-server.settings.bild: there is no such key or table",
    ),
    "public address": (
        'services.build-server.settings.listen.public = "0.0.0.0:8010";',
        'write services.build-server.settings.listen.public = "127.0.0.1:8010";',
    ),
    "name to listen on": (
        'services.build-server.settings.listen.private = "localhost:8000";',
        '"localhost:8000" has a name where systemd, which opens the listeners, wants',
    ),
    "funnel without tailscale": (
        "services.build-server.funnel.enable = true;",
        "Write services.tailscale.enable = true; too",
    ),
    "funnel without webhook": (
        "services.tailscale.enable = true; services.build-server = { "
        "funnel.enable = true; settings.github.webhook = false; };",
        "settings.github.webhook = false refuses",
    ),
    "funnel elsewhere": (
        "services.tailscale.enable = true; services.build-server = { funnel = { "
        "enable = true; port = 8443; }; settings.github.public_webhook_url = "
        '"https://b.example-tailnet.ts.net/webhook"; };',
        'Write "https://NAME.TAILNET.ts.net:8443/webhook"',
    ),
    "funnel at a socket file": (
        "services.tailscale.enable = true; services.build-server = { "
        'funnel.enable = true; settings.listen.public = "unix:/run/x.sock"; };',
        "services.build-server.funnel needs an address with a port",
    ),
    "funnel and serve on one port": (
        "services.tailscale.enable = true; services.build-server = { "
        "funnel.enable = true; tailscaleServe = { enable = true; port = 443; }; };",
        "everything on it would be public",
    ),
    "firewall off": (
        "networking.firewall.enable = false;",
        "the firewall is off. Write services.build-server.tailscaleServe.enable = true;",
    ),
    "serve without tailscale": (
        "services.build-server.tailscaleServe.enable = true;",
        "this machine's tailscaled, which is off. Write services.tailscale.enable = true;",
    ),
    "serve of a socket file": (
        "services.tailscale.enable = true; services.build-server = { "
        'tailscaleServe.enable = true; settings.listen.private = "unix:/run/x"; };',
        "services.build-server.tailscaleServe needs an address with a port",
    ),
    "trusted": (
        'nix.settings.trusted-users = [ "root" "build-server" ];',
        "whoever can push would be root here",
    ),
    "no sandbox": (
        "nix.settings.sandbox = false;",
        "nix.settings.sandbox = false lets what others push build outside of Nix's",
    ),
    "half a sandbox": (
        'nix.settings.sandbox = "relaxed";',
        'nix.settings.sandbox = "relaxed" lets what others push build outside of Nix\'s',
    ),
    "everybody trusted": (
        'nix.settings.trusted-users = [ "*" ];',
        "nix.settings.trusted-users has *, so Nix trusts build-server",
    ),
    "trusted by its group": (
        'nix.settings.trusted-users = [ "@build-server" ];',
        "nix.settings.trusted-users has @build-server",
    ),
    "trusted besides": (
        'nix.settings.extra-trusted-users = "alice build-server";',
        "nix.settings.trusted-users has build-server",
    ),
    "not allowed": (
        'nix.settings.allowed-users = [ "@wheel" ];',
        'Write nix.settings.allowed-users = [ "build-server" … ];',
    ),
    "app without id": (
        'services.build-server.secrets.githubAppKeyFile = "/run/secrets/app.pem";',
        'Write services.build-server.settings.github.app_id = "123456"; too.',
    ),
    "app and token": (
        'services.build-server = { settings.github.app_id = "1"; '
        'secrets.githubTokenFile = "/run/secrets/token"; };',
        "Keep one of the two",
    ),
    "old secret alone": (
        "services.build-server = { settings.github.webhook = false; secrets = { "
        "webhookSecretFile = lib.mkForce null; "
        'webhookSecretOldFile = "/run/secrets/old"; }; };',
        "write services.build-server.secrets.webhookSecretFile, the new one, too",
    ),
    "old secret and paths": (
        "services.build-server = { settings.github.webhook_secret_file = "
        '"/run/secrets/w"; secrets.webhookSecretOldFile = "/run/secrets/old"; };',
        "name both files there, [ new old ]",
    ),
    "state elsewhere": (
        'services.build-server.settings.state_dir = "/srv/build";',
        "is not below /var/lib, where systemd makes it",
    ),
    "secret beside the state": (
        "services.build-server.secrets.apiTokenFile = "
        '"/var/lib/build-server/api-token";',
        "has a secret in /var/lib/build-server, which is backed up",
    ),
    "one port twice": (
        "services.build-server.harmonia = { enable = true; port = 8000; };",
        "settings.listen.private has already",
    ),
    "no Nix": ("nix.enable = false;", "nix.enable is false. Take that out."),
}


@pytest.fixture(scope="module")
def refusals(evaluation: Evaluation) -> dict[str, list[str]]:
    """What each of them is told, in one evaluation."""
    server = f"root + {json.dumps(f'/{SERVER}')}"
    cases = "".join(
        f"{json.dumps(name)} = (evalNixos {{ modules = [ ({server}) ({SMALLEST})"
        f" ({{ lib, ... }}: {{ {more} }}) ]; }}).failed;\n"
        for name, (more, _) in REFUSED.items()
    )
    said: dict[str, list[str]] = evaluation.ask(f"{{ {cases} }}")
    return said


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_said_before_it_runs(
    refusals: Mapping[str, list[str]], case: str
) -> None:
    words = REFUSED[case][1]
    assert len(refusals[case]) == 1, refusals[case]
    assert words in refusals[case][0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            'secrets.webhookSecretFile = "/nix/store/x";',
            "outside the Nix store, in quotes",
        ),
        ("secrets.webhookSecretFile = ./webhook;", "without quotes Nix would copy the"),
        ('secrets.githubTokenFile = "token";', "absolute path of a file outside the"),
        ('settings.github.token_file = "/nix/store/x";', "outside the Nix store"),
        ('harmonia.publicKey = "build-server-1:abc";', "44 characters after the colon"),
        ('harmonia.keyFile = "/nix/store/key";', "outside the Nix store, in quotes"),
        ('settings.build.parallel = "two";', "unsigned integer"),
        ('settings.build.timeout = "20 parsecs";', 'duration such as "45s", "20m"'),
        ('settings.disk.store_low = "much";', 'size such as "64MiB"'),
        ('settings.build = "fast";', "is not of type"),
        ('settings.repository = [ { name = "o/n"; policy = "all"; } ];', '"every"'),
        ('settings.repository = [ { url = "x"; } ];', "name' .* no value defined"),
        ("funnel.port = 8010;", "one of 443, 8443, 10000"),
        ('funnel.path = "webhook/";', 'begins with "/" and does not end with one'),
        ('listenAddress = "eth0";', "numeric address, IPv6 in brackets"),
        ('gc.olderThan = "a month";', 'number of days, e.g. "30d"'),
    ],
)
def test_a_wrong_type_says_what_to_write(
    eval_nixos: EvaluateNixos, more: str, words: str
) -> None:
    whole = f"{{ services.build-server = {{ enable = true; {more} }}; }}"
    asked = {
        "all": "config.systemd.services.build-server.serviceConfig",
        "set": "{ inherit (config.services.build-server) funnel gc listenAddress; }",
        "file": "config.services.build-server.configFile.unchecked.value",
        "key": "config.services.build-server.harmonia",
    }
    with pytest.raises(EvaluationFailed, match=words):
        eval_nixos(SERVER, whole, ask=asked)


def test_nothing_is_taken_away_that_bubblewrap_needs(usual: Mapping[str, Any]) -> None:
    taken = usual["services"]["build-server"]["serviceConfig"]
    advice = " ".join(sandbox.ADVICE.values())
    for name in ("RestrictNamespaces", "ProtectKernelTunables", "ProtectProc"):
        assert name in advice
    assert [name for name in taken if name in advice] == []
    # A sandbox has a host name, and jobs have cgroups of their own.
    assert "ProtectHostname" not in taken
    assert "ProtectControlGroups" not in taken


def test_the_tailnet_alone_gets_in(usual: Mapping[str, Any]) -> None:
    firewall = usual["firewall"]
    assert firewall["allowedTCPPorts"] == []
    assert firewall["interfaces"] == {
        "tailscale0": {"allowedTCPPorts": [8000, 5000], "allowedUDPPorts": []}
    }
    opened = {
        one["socketConfig"]["FileDescriptorName"]: one["listenStreams"]
        for one in usual["sockets"].values()
        if one["socketConfig"].get("FileDescriptorName")
    }
    assert opened == {"public": ["127.0.0.1:8010"], "private": ["[::]:8000"]}
    assert usual["nix"]["trusted-users"] == ["root"]
    assert usual["user"]["isSystemUser"]


def test_a_socket_that_changes_is_another_socket(evaluation: Evaluation) -> None:
    """NixOS restarts none that changed, and would leave it open where it was."""
    changes = {
        "as it was": "",
        "another build": "settings.build.parallel = 7;",
        "loopback": 'listenAddress = "127.0.0.1";',
        "one more network": 'allowedAddresses = [ "192.168.1.0/24" ];',
        "another user": 'user = "builder";',
    }
    server = f"root + {json.dumps(f'/{SERVER}')}"
    cases = "".join(
        f"{json.dumps(name)} = let inherit ((evalNixos {{ modules = [ ({server})"
        f" ({SMALLEST}) {{ services.build-server = {{ {more} }}; }} ]; }}).config.systemd)"
        " services sockets; in { opened = builtins.attrNames sockets; "
        "passed = services.build-server.serviceConfig.Sockets; };\n"
        for name, more in changes.items()
    )
    said = evaluation.ask(f"{{ {cases} }}")
    names = {name: set(one["opened"]) for name, one in said.items()}
    for one in said.values():
        assert {f"{name}.socket" for name in one["opened"]} == set(one["passed"])
    before = names["as it was"]
    assert names["another build"] == before
    # The public one is the same in both.
    assert len(names["loopback"] & before) == len(names["one more network"] & before)
    assert len(names["loopback"] & before) == 1
    assert len(names["loopback"] & names["one more network"]) == 1
    assert not names["another user"] & before


def test_on_one_address_the_machine_asks_itself_there(
    eval_nixos: EvaluateNixos,
) -> None:
    """Nothing listens on loopback then; and at boot the address is not there yet."""
    said = eval_nixos(
        SERVER,
        USUAL,
        '{ services.build-server.listenAddress = "100.64.7.7";'
        ' nix.settings.allowed-users = [ "@wheel" ];'
        ' nix.settings.extra-allowed-users = [ "build-server" ]; }',
        ask=ASK,
    )
    assert said["failed"] == []
    assert said["file"]["cache"]["url"] == "http://100.64.7.7:5000"
    mend = said["services"]["build-server-funnel-mend"]["environment"]
    assert mend["FUNNEL_HEALTH"] == "http://100.64.7.7:8000/health"
    private = [
        one["socketConfig"]
        for one in said["sockets"].values()
        if one["listenStreams"] == ["100.64.7.7:8000"]
    ]
    assert [one["FreeBind"] for one in private] == [True]


def test_on_wsl_everything_is_on_loopback(eval_nixos: EvaluateNixos) -> None:
    """Where the firewall is off, whatever `networking.firewall` says."""
    said = eval_nixos(
        SERVER,
        USUAL,
        '{ wsl.enable = true; wsl.defaultUser = "alice"; }',
        ask=ASK | {"harmonia": "config.services.harmonia.cache.settings"},
        wsl=True,
    )
    assert said["failed"] == []
    assert said["firewall"]["interfaces"] == {}
    assert said["file"]["listen"]["private"] == "127.0.0.1:8000"
    assert said["file"]["public_url"] == "http://builder:8000"
    assert said["harmonia"]["bind"] == "127.0.0.1:5000"
    door = said["services"]["build-server-tailnet"]["serviceConfig"]
    words = "http=8000=http://127.0.0.1:8000 tcp=5000=tcp://127.0.0.1:5000"
    assert door["ExecStart"].endswith(f"/bin/build-server-tailnet open {words}")
    assert door["ExecStop"].endswith(f"/bin/build-server-tailnet close {words}")


def test_on_wsl_other_addresses_are_refused(eval_nixos: EvaluateNixos) -> None:
    wsl = '{ wsl.enable = true; wsl.defaultUser = "alice"; services.tailscale.enable = true; }'
    addressed = '{ services.build-server.listenAddress = "0.0.0.0"; }'
    said = eval_nixos(SERVER, SMALLEST, wsl, addressed, ask="failed", wsl=True)
    assert len(said) == 1
    assert "NixOS-WSL switches the firewall's unit off" in said[0]
    assert "systemd.services.firewall.enable = lib.mkForce true;" in said[0]
    forced = "{ lib, ... }: { systemd.services.firewall.enable = lib.mkForce true; }"
    assert (
        eval_nixos(SERVER, SMALLEST, wsl, addressed, forced, ask="failed", wsl=True)
        == []
    )
    nftables = "{ networking.nftables.enable = true; }"
    assert (
        eval_nixos(SERVER, SMALLEST, wsl, addressed, nftables, ask="failed", wsl=True)
        == []
    )


@pytest.mark.parametrize("old", [False, True])
def test_harmonia_by_its_new_and_its_old_name(
    eval_nixos: EvaluateNixos, old: bool
) -> None:
    place = "config.services.harmonia" + ("" if old else ".cache")
    said = eval_nixos(
        SERVER,
        USUAL,
        ask={
            "failed": "failed",
            "enabled": f"{place}.enable",
            "keys": f"{place}.signKeyPaths",
            "settings": f"{place}.settings",
            "credential": "config.systemd.services.harmonia.serviceConfig.LoadCredential",
            "toplevel": "config.system.build.toplevel.name",
        },
        old_harmonia=old,
    )
    assert said["failed"] == []
    assert said["enabled"]
    assert said["keys"] == ["/var/lib/build-server-cache/secret-key"]
    assert said["credential"] == ["sign-key-0:/var/lib/build-server-cache/secret-key"]
    assert (said["settings"]["bind"], said["settings"]["priority"]) == ("[::]:5000", 50)


def test_a_key_that_is_not_known_yet_is_asked_for(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(
        SERVER, SMALLEST, "{ services.build-server.harmonia.enable = true; }", ask=ASK
    )
    assert said["failed"] == []
    assert "cache" not in said["file"]
    (warning,) = (text for text in said["warnings"] if "publicKey" in text)
    assert "run `cat /var/lib/build-server-cache/public-key`" in warning


def test_a_small_machine_and_one_line_that_overrides(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(
        SERVER,
        SMALLEST,
        "{ services.build-server = { smallMachine = true; settings.build.parallel = 2; }; "
        'nix.gc.dates = "daily"; }',
        ask=ASK | {"zram": "config.zramSwap.enable"},
    )
    assert said["file"]["build"] == {
        "parallel": 2,
        "eval_memory": "2GiB",
        "command_memory": "2GiB",
        "processes": 1024,
    }
    assert (said["nix"]["max-jobs"], said["nix"]["cores"]) == (1, 2)
    assert said["services"]["nix-daemon"]["serviceConfig"]["MemoryHigh"] == "70%"
    assert said["services"]["build-server"]["serviceConfig"]["MemoryMax"] == "80%"
    assert said["zram"]
    assert said["gc"]["gc"]["dates"] == ["daily"]
    assert said["gc"]["optimise"]["automatic"]


def test_garbage_is_collected_weekly_and_late_when_asleep(
    usual: Mapping[str, Any],
) -> None:
    gc = usual["gc"]["gc"]
    assert (gc["automatic"], gc["dates"], gc["persistent"]) == (True, ["weekly"], True)
    assert gc["options"] == "--delete-older-than 30d"
    assert usual["gc"]["optimise"]["dates"] == ["weekly"]


def test_remote_builders_are_nix_s_own(eval_nixos: EvaluateNixos) -> None:
    builder = (
        '{ hostName = "big"; protocol = "ssh-ng"; systems = [ "aarch64-linux" ]; '
        'sshKey = "/var/lib/keys/builder"; maxJobs = 8; }'
    )
    said = eval_nixos(
        SERVER,
        SMALLEST,
        f"{{ services.build-server.remoteBuilders = [ {builder} ]; }}",
        ask={
            "machines": "config.nix.buildMachines",
            "distributed": "config.nix.distributedBuilds",
            "substitutes": "config.nix.settings.builders-use-substitutes",
        },
    )
    (machine,) = said["machines"]
    assert (machine["hostName"], machine["maxJobs"]) == ("big", 8)
    assert said["distributed"]
    assert said["substitutes"]


def test_without_webhooks_nothing_is_public(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(
        SERVER,
        SMALLEST,
        "{ lib, ... }: { services.build-server = { settings.github.webhook = false; "
        "secrets.webhookSecretFile = lib.mkForce null; "
        'settings.listen.private = "unix:/run/build-server/private.sock"; }; }',
        ask=ASK,
    )
    assert said["failed"] == []
    (private,) = said["sockets"].values()
    assert private["socketConfig"]["FileDescriptorName"] == "private"
    assert private["listenStreams"] == ["/run/build-server/private.sock"]
    assert "IPAddressDeny" not in private["socketConfig"]
    assert said["firewall"]["interfaces"] == {}
    assert not said["services"]["build-server"]["serviceConfig"]["LoadCredential"]


def test_systemd_takes_the_units(usual: Mapping[str, Any], tmp_path: Path) -> None:
    """As far as the systemd here knows them: 252 has no notify-reload and no steps."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not here: systemd has not judged the units")
    written = _units(usual)
    for name, text in written.items():
        (tmp_path / name).write_text(_for_here(text))
    for other in ("tailscaled.service", "harmonia.service", "nix-daemon.socket"):
        (tmp_path / other).write_text(
            "[Socket]\nListenStream=/run/none\n"
            if other.endswith(".socket")
            else "[Service]\nExecStart=/bin/true\n"
        )
    (tmp_path / "nix-daemon.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--man=no",
            *(tmp_path / name for name in written),
        ],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    about_ours = [line for line in done.stderr.splitlines() if "build-server" in line]
    assert about_ours == []
    assert done.returncode == 0, done.stderr


def _for_here(text: str) -> str:
    """Programs that are here, and no settings that came after systemd 252."""
    lines = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if name in ("RefreshOnReload", "RestartSteps", "RestartMaxDelaySec"):
            continue
        if name.startswith("Exec"):
            line = f"{name}{equals}/bin/true {value.partition(' ')[2]}"
        lines.append(line.replace("Type=notify-reload", "Type=notify"))
    return "\n".join(lines) + "\n"


def test_the_virtual_machines_evaluate(evaluation: Evaluation) -> None:
    """They need KVM and nixpkgs to run: here they are only looked at."""
    said = evaluation.ask("""
      let
        tests = import (root + "/nix/checks/nixos") { inherit pkgs; };
        vm.options.virtualisation = lib.mkOption { type = lib.types.attrs; };
        machine = module: evalNixos { modules = [ module vm ]; };
        look = _: test: {
          script = test.module.testScript;
          names = lib.mapAttrs (
            _: node: (machine node).config.system.build.toplevel.name
          ) test.module.nodes;
        };
      in
      builtins.mapAttrs look tests
    """)
    assert set(said) == {"server-builds", "client-fetches"}
    for test in said.values():
        compile(test["script"], "testScript", "exec")
    assert said["client-fetches"]["names"] == {
        "client": "nixos-system-nixos",
        "server": "nixos-system-server",
    }
