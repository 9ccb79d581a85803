"""nix/modules/nixos/build-client.nix: a machine that fetches, and has bt, bs and bl."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ci.client import address
from tests.nix import client_settings, units
from tests.nix.conftest import EvaluateNixos
from tests.nix.evaluation import Evaluation, EvaluationFailed

CLIENT = Path("nix/modules/nixos/build-client.nix")
KEY = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
OTHER = "other-1:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBE="
USUAL = f"""{{
  programs.build-client = {{
    enable = true;
    server = "http://builder.example-tailnet.ts.net:8000";
    publicKey = "{KEY}";
    extraCaches = [
      {{ url = "https://cache.example.com"; publicKey = "{OTHER}"; }}
      {{ url = "https://near.example.com"; publicKey = "{OTHER}"; priority = 10; }}
    ];
  }};
}}"""
ASK = {
    "failed": "failed",
    "warnings": "warnings",
    "nix": "config.nix.settings",
    "toml": 'config.environment.etc."build-server/client.toml".source.value',
    "programs": "map (one: one.name) config.environment.systemPackages",
    "toplevel": "config.system.build.toplevel.name",
}


def test_what_a_client_gets(each_evaluation: Evaluation) -> None:
    said = each_evaluation.nixos(CLIENT, USUAL, ask=ASK)
    assert said["failed"] == []
    assert said["warnings"] == []
    assert said["programs"] == ["build-client"]
    nix = said["nix"]
    assert nix["substituters"] == [
        "http://builder.example-tailnet.ts.net:5000",
        "https://cache.example.com",
        "https://near.example.com?priority=10",
    ]
    assert nix["trusted-public-keys"] == [KEY, OTHER]
    # A server that sleeps: one try of three seconds, then elsewhere.
    assert nix["connect-timeout"] == 3
    assert nix["download-attempts"] == 1
    assert nix["fallback"] is True
    assert nix["trusted-users"] == ["root"]


def test_what_the_cache_is_tested_with_is_what_a_client_gets(
    each_evaluation: Evaluation,
) -> None:
    assert client_settings.evaluated(each_evaluation) == client_settings.golden()


def test_the_file_is_what_the_clients_read(
    eval_nixos: EvaluateNixos, tmp_path: Path
) -> None:
    said = eval_nixos(CLIENT, USUAL, ask=ASK)
    text = units.toml(said["toml"])
    assert tomllib.loads(text) == {
        "server": "http://builder.example-tailnet.ts.net:8000",
        "cache": {
            "url": "http://builder.example-tailnet.ts.net:5000",
            "public_key": KEY,
        },
    }
    file = tmp_path / "build-server/client.toml"
    file.parent.mkdir()
    file.write_text(text)
    found = address.find(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert (found.host, found.port) == ("builder.example-tailnet.ts.net", 8000)


@pytest.mark.parametrize(
    ("server", "cache"),
    [
        ("http://build-server:8000", "http://build-server:5000"),
        (
            "https://build-server.example-tailnet.ts.net/",
            "http://build-server.example-tailnet.ts.net:5000",
        ),
        ("http://[fd7a::1]:8000", "http://[fd7a::1]:5000"),
        ("unix:/run/build-server/private.sock", None),
    ],
)
def test_the_cache_is_beside_the_server(
    eval_nixos: EvaluateNixos, server: str, cache: str | None
) -> None:
    chosen = f'{{ programs.build-client = {{ enable = true; server = "{server}"; }}; }}'
    assert (
        eval_nixos(CLIENT, chosen, ask="config.programs.build-client.cacheUrl") == cache
    )


def test_one_line_overrides(eval_nixos: EvaluateNixos) -> None:
    own = "{ nix.settings.connect-timeout = 10; programs.build-client.priority = 30; }"
    nix = eval_nixos(CLIENT, USUAL, own, ask="config.nix.settings")
    assert nix["connect-timeout"] == 10
    assert nix["substituters"][0].endswith(":5000?priority=30")


def test_without_a_key_nothing_is_fetched(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(CLIENT, "{ programs.build-client.enable = true; }", ask=ASK)
    assert said["nix"]["substituters"] == []
    assert said["toml"] == {"server": "http://build-server:8000"}
    (warning,) = said["warnings"]
    assert "nothing is fetched from http://build-server:5000" in warning
    assert "`cat /var/lib/build-server-cache/public-key` shows on the server" in warning
    quiet = "{ programs.build-client = { enable = true; cacheUrl = null; }; }"
    assert eval_nixos(CLIENT, quiet, ask="warnings") == []


def test_switched_off_it_does_nothing(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(
        CLIENT,
        ask={"nix": "config.nix.settings", "etc": "config.environment.etc"},
    )
    assert said["etc"] == {}
    assert "connect-timeout" not in said["nix"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            f'cacheUrl = null; publicKey = "{KEY}";',
            'Write programs.build-client.cacheUrl = "http://build-server:5000";',
        ),
        (
            f'publicKey = "{KEY}"; extraCaches = [ '
            f'{{ url = "http://build-server:5000"; publicKey = "{KEY}"; }} ];',
            "names a cache twice, or the server's own",
        ),
    ],
)
def test_what_cannot_work_is_said(
    eval_nixos: EvaluateNixos, more: str, words: str
) -> None:
    chosen = f"{{ programs.build-client = {{ enable = true; {more} }}; }}"
    (message,) = eval_nixos(CLIENT, chosen, ask="failed")
    assert words in message


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('publicKey = "build-server-1:abc=";', "44 characters after the colon"),
        ('publicKey = "AAAAAAAAAAAA";', 'e.g. "build-server-1:AAAA'),
        ('cacheUrl = "build-server:5000";', 'e.g. "http://build-server:5000"'),
        ('server = "build-server:8000";', 'e.g. "http://build-server:8000"'),
        ('extraCaches = [ { url = "https://x.example"; } ];', "no value defined"),
        ("connectTimeout = 0;", "positive integer"),
    ],
)
def test_a_wrong_type_says_what_to_write(
    eval_nixos: EvaluateNixos, more: str, words: str
) -> None:
    chosen = f"{{ programs.build-client = {{ enable = true; {more} }}; }}"
    with pytest.raises(EvaluationFailed, match=words):
        eval_nixos(CLIENT, chosen, ask=ASK)
