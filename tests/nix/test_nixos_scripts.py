"""The shell parts of the NixOS modules, run against a stand-in `tailscale`, real jq and Nix."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from ci.adapters import probe
from ci.outside import finding
from tests.fakes.nix_stores import NixProgram
from tests.fakes.tailscale import HOST, LINK, Tailscale
from tests.fakes.tree import CHECKOUT

MODULES = CHECKOUT / "nix/modules/nixos"
SCRIPTS = sorted(MODULES.rglob("*.sh"))
FUNNEL = {
    "FUNNEL_PORT": "443",
    "FUNNEL_PATH": "/webhook",
    "FUNNEL_TARGET": "http://127.0.0.1:8010/webhook",
    "FUNNEL_PRIVATE": "8000 5000",
    "FUNNEL_HEALTH": "",
}
OPEN = {
    "TCP": {"443": {"HTTPS": True}},
    "Web": {
        f"{HOST}:443": {
            "Handlers": {"/webhook": {"Proxy": "http://127.0.0.1:8010/webhook"}}
        }
    },
    "AllowFunnel": {f"{HOST}:443": True},
}
# What writeShellApplication puts before a text.
STRICT = ("-o", "errexit", "-o", "nounset", "-o", "pipefail")
NOW = 1_795_132_800
DOORS = ["http=8000=http://127.0.0.1:8000", "tcp=5000=tcp://127.0.0.1:5000"]


@pytest.fixture(autouse=True)
def _programs() -> None:
    for program in ("bash", "jq", "curl"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not here: the units' scripts are not run")


@pytest.fixture
def tailscale(tmp_path: Path) -> Tailscale:
    return Tailscale.installed(tmp_path / "bin")


def _run(
    script: str, *arguments: str, env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """As writeShellApplication runs it."""
    return subprocess.run(
        ["bash", *STRICT, str(MODULES / script), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=240,
    )


def _funnel(
    tailscale: Tailscale, verb: str, **more: str
) -> subprocess.CompletedProcess[str]:
    runtime = {"RUNTIME_DIRECTORY": str(tailscale.directory)}
    env = {**tailscale.env, **FUNNEL, **runtime, **more}
    return _run("build-server/funnel.sh", verb, env=env)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not here: the units' scripts are not checked")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_funnel_opens_one_path_and_closes_it(tailscale: Tailscale) -> None:
    opened = _funnel(tailscale, "open")
    assert opened.returncode == 0, opened.stderr
    assert tailscale.config() == OPEN
    command = "funnel --bg --yes --https=443 --set-path=/webhook"
    assert _lines(tailscale) == [f"{command} http://127.0.0.1:8010/webhook"]
    again = _funnel(tailscale, "open")
    assert again.returncode == 0
    assert len(tailscale.changes()) == 1
    closed = _funnel(tailscale, "close")
    assert closed.returncode == 0, closed.stderr
    assert tailscale.config() == {}
    # Closed already: nothing to do, and no error.
    assert _funnel(tailscale, "close").returncode == 0


def test_the_commands_are_those_of_the_documentation(tailscale: Tailscale) -> None:
    _funnel(tailscale, "open")
    _funnel(tailscale, "close")
    page = (CHECKOUT / "tailscale-funnel.md").read_text()
    by_hand = re.sub(r" --yes(?= .*off$)", "", "\n".join(_lines(tailscale)), flags=re.M)
    assert len(by_hand.splitlines()) == 2
    for line in by_hand.splitlines():
        assert f"tailscale {line}\n" in page


def _lines(tailscale: Tailscale) -> list[str]:
    return [" ".join(call) for call in tailscale.changes()]


def test_funnel_waits_for_the_tailnet(tailscale: Tailscale) -> None:
    tailscale.change(states=["NoState", "Starting", "Running"])
    assert _funnel(tailscale, "open").returncode == 0
    assert tailscale.config() == OPEN


def test_funnel_says_that_the_machine_is_not_logged_in(tailscale: Tailscale) -> None:
    tailscale.change(states=["NeedsLogin"])
    done = _funnel(tailscale, "open", TAILSCALE_WAIT="3")
    assert done.returncode == 1
    assert "not connected (NeedsLogin): run tailscale up" in done.stderr
    assert tailscale.changes() == []


def test_funnel_that_is_not_allowed_fails_with_the_link(tailscale: Tailscale) -> None:
    """The program itself exits with 0 there."""
    tailscale.change(allowed=False)
    done = _funnel(tailscale, "open")
    assert done.returncode == 1
    assert LINK in done.stderr
    assert "nodeAttrs" in done.stderr
    assert tailscale.config() == {}


def test_funnel_is_mended_when_it_was_switched_off(tailscale: Tailscale) -> None:
    _funnel(tailscale, "open")
    tailscale.run("serve", "--https=443", "--set-path=/webhook", "http://127.0.0.1:1")
    assert "AllowFunnel" not in tailscale.config()
    assert _funnel(tailscale, "mend").returncode == 0
    assert tailscale.config() == OPEN
    before = tailscale.changes()
    assert _funnel(tailscale, "mend").returncode == 0
    assert tailscale.changes() == before


def test_funnel_is_opened_under_a_new_name_of_the_machine(
    tailscale: Tailscale,
) -> None:
    """tailscaled keeps the former one, by which nobody comes and nothing closes."""
    _funnel(tailscale, "open")
    tailscale.change(host="other.example-tailnet.ts.net")
    done = _funnel(tailscale, "mend")
    assert done.returncode == 0, done.stderr
    config = tailscale.config()
    new = {"/webhook": {"Proxy": "http://127.0.0.1:8010/webhook"}}
    assert config["Web"]["other.example-tailnet.ts.net:443"] == {"Handlers": new}
    assert config["AllowFunnel"]["other.example-tailnet.ts.net:443"]
    before = tailscale.changes()
    assert _funnel(tailscale, "mend").returncode == 0
    assert tailscale.changes() == before
    closed = _funnel(tailscale, "close")
    assert closed.returncode == 0, closed.stderr
    assert list(tailscale.config()["Web"]) == [f"{HOST}:443"]


def test_funnel_makes_nothing_public_that_is_there_already(
    tailscale: Tailscale,
) -> None:
    """Funnel is for the whole port."""
    tailscale.run("serve", "--https=443", "--set-path=/wiki", "http://127.0.0.1:9000")
    before = tailscale.config()
    done = _funnel(tailscale, "open")
    assert done.returncode == 1
    assert f"{HOST}:443/wiki -> http://127.0.0.1:9000 is on port 443" in done.stderr
    assert tailscale.config() == before


@pytest.mark.parametrize(
    "private", ["http://127.0.0.1:8000", "http://localhost:5000/x"]
)
@pytest.mark.parametrize("port", ["443", "8443"])
@pytest.mark.parametrize("verb", ["open", "mend"])
def test_what_is_private_and_public_is_closed_at_once(
    tailscale: Tailscale, verb: str, port: str, private: str
) -> None:
    tailscale.run("funnel", f"--https={port}", "--set-path=/api", private)
    done = _funnel(tailscale, verb)
    assert done.returncode == 1
    assert f"{HOST}:{port}/api -> {private} was public" in done.stderr
    assert tailscale.config() == {}


def test_a_private_port_forwarded_by_funnel_is_closed(tailscale: Tailscale) -> None:
    tailscale.run("funnel", "--tcp=10000", "tcp://127.0.0.1:5000")
    done = _funnel(tailscale, "mend")
    assert done.returncode == 1
    assert tailscale.config() == {}


def test_a_terminal_that_shows_something_private_is_seen(tailscale: Tailscale) -> None:
    """`tailscale funnel 8000` without --bg has a configuration of its own."""
    own = {
        "Web": {
            f"{HOST}:8443": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:8000"}}}
        },
        "AllowFunnel": {f"{HOST}:8443": True},
    }
    tailscale.change(config={"Foreground": {"session": own}})
    done = _funnel(tailscale, "mend")
    assert done.returncode == 1
    assert "is public, and does not close" in done.stderr


def test_what_the_tailnet_alone_sees_is_left_alone(tailscale: Tailscale) -> None:
    tailscale.run("serve", "--http=8000", "http://127.0.0.1:8000")
    tailscale.run("serve", "--tcp=5000", "tcp://127.0.0.1:5000")
    before = tailscale.config()
    assert _funnel(tailscale, "open").returncode == 0
    assert _funnel(tailscale, "close").returncode == 0
    assert tailscale.config() == before


class _Health(BaseHTTPRequestHandler):
    """`/health` with what the server's class attribute says."""

    checks: ClassVar[list[dict[str, object]]]

    def do_GET(self) -> None:
        assert self.headers["Host"] == "localhost"
        body = json.dumps({"status": "degraded", "checks": self.checks}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_funnel_that_lets_nothing_through_is_opened_again(tailscale: Tailscale) -> None:
    """Its own status says open; the server, which asks itself from outside, knows better."""

    place = finding.Place("https://builder.example.com/webhook", "127.0.0.1:8010")
    silent = finding.silent(
        place, "192.0.2.1", probe.Silence(probe.Kind.TIMEOUT, "none")
    )
    nobody = finding.not_us(place, "192.0.2.1", probe.Reply(502, "", b""))
    other = finding.not_us(place, "192.0.2.1", probe.Reply(404, "", b""))
    offline = finding.Finding(finding.Reach.UNKNOWN, "no resolver")

    class Health(_Health):
        checks: ClassVar = [asdict(silent.check())]

    server = HTTPServer(("127.0.0.1", 0), Health)
    Thread(target=server.serve_forever, daemon=True).start()
    health = f"http://localhost:{server.server_port}/health"
    _funnel(tailscale, "open")

    def looks(times: int) -> int:
        """How many changes that many looks make."""
        before = len(tailscale.changes())
        for _ in range(times):
            done = _funnel(tailscale, "mend", FUNNEL_HEALTH=health)
            assert done.returncode == 0, done.stderr
        return len(tailscale.changes()) - before

    assert looks(1) == 0
    assert looks(1) == 2
    assert tailscale.config() == OPEN
    assert looks(9) == 0
    assert looks(1) == 2
    # Offline ourselves, or somebody else there: nothing to mend here.
    for found in (offline, other):
        Health.checks = [asdict(found.check())]
        assert looks(3) == 0
    # Funnel names the right target, as the look before has seen, and finds nobody there.
    Health.checks = [asdict(nobody.check())]
    assert (looks(1), looks(1)) == (0, 2)
    server.shutdown()
    server.server_close()


def test_the_tailnet_is_let_in_and_out(tailscale: Tailscale) -> None:
    def serve(verb: str) -> subprocess.CompletedProcess[str]:
        return _run("build-server/serve.sh", verb, *DOORS, env=tailscale.env)

    opened = serve("open")
    assert opened.returncode == 0, opened.stderr
    assert tailscale.config() == {
        "TCP": {"8000": {"HTTP": True}, "5000": {"TCPForward": "127.0.0.1:5000"}},
        "Web": {
            f"{HOST}:8000": {"Handlers": {"/": {"Proxy": "http://127.0.0.1:8000"}}}
        },
    }
    changes = tailscale.changes()
    assert serve("open").returncode == 0
    assert tailscale.changes() == changes
    closed = serve("close")
    assert closed.returncode == 0, closed.stderr
    assert tailscale.config() == {}


def test_the_tailnet_is_let_in_under_a_new_name_of_the_machine(
    tailscale: Tailscale,
) -> None:
    def serve(verb: str) -> subprocess.CompletedProcess[str]:
        return _run("build-server/serve.sh", verb, *DOORS, env=tailscale.env)

    assert serve("open").returncode == 0
    tailscale.change(host="other.example-tailnet.ts.net")
    opened = serve("open")
    assert opened.returncode == 0, opened.stderr
    assert "other.example-tailnet.ts.net:8000" in tailscale.config()["Web"]
    assert serve("open").returncode == 0
    assert serve("close").returncode == 0
    assert list(tailscale.config()["Web"]) == [f"{HOST}:8000"]


@pytest.mark.parametrize("verb", ["serve", "funnel"])
def test_the_tailnet_gets_no_port_that_is_taken_or_public(
    tailscale: Tailscale, verb: str
) -> None:
    tailscale.run(verb, "--https=8000", "http://127.0.0.1:3000")
    before = tailscale.config()
    done = _run("build-server/serve.sh", "open", *DOORS, env=tailscale.env)
    assert done.returncode == 1
    reason = {"serve": "something else on port 8000", "funnel": "port 8000 is public"}
    assert reason[verb] in done.stderr
    closed = _run("build-server/serve.sh", "close", *DOORS, env=tailscale.env)
    assert closed.returncode == 0
    assert tailscale.config() == before


def _key_env(nix: NixProgram, directory: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(nix.program).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "KEY_FILE": str(directory / "secret-key"),
        "PUBLIC_FILE": str(directory / "public-key"),
        "KEY_NAME": "build-server-1",
        "KEY_MADE_HERE": "1",
    }


def test_the_key_is_made_once(nix_version: NixProgram, tmp_path: Path) -> None:
    env = _key_env(nix_version, tmp_path)
    made = _run("build-server/cache-key.sh", env=env)
    assert made.returncode == 0, made.stderr
    secret, public = tmp_path / "secret-key", tmp_path / "public-key"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert public.stat().st_mode & 0o777 == 0o644
    key = public.read_text().strip()
    assert re.fullmatch(r"build-server-1:[A-Za-z0-9+/]{43}=", key)
    assert f"clients trust: {key}" in made.stderr
    before = secret.read_text()
    assert before not in made.stdout + made.stderr
    public.unlink()
    assert _run("build-server/cache-key.sh", env=env).returncode == 0
    assert (secret.read_text(), public.read_text().strip()) == (before, key)
    assert {path.name for path in tmp_path.iterdir()} >= {"secret-key", "public-key"}
    assert not list(tmp_path.glob("new.*"))
    renamed = _run("build-server/cache-key.sh", env=env | {"KEY_NAME": "other-1"})
    assert renamed.returncode == 0
    assert "is called build-server-1, not other-1" in renamed.stderr


def test_a_key_of_somebody_else_is_never_made(
    nix_version: NixProgram, tmp_path: Path
) -> None:
    """A secret store that is late must not end in a key that nobody trusts."""
    env = _key_env(nix_version, tmp_path) | {"KEY_MADE_HERE": "0"}
    done = _run("build-server/cache-key.sh", env=env)
    assert done.returncode == 1
    assert "put the secret key there" in done.stderr
    assert not (tmp_path / "secret-key").exists()


@pytest.mark.parametrize(("mode", "open_to_others"), [(0o400, False), (0o444, True)])
def test_a_key_of_somebody_else_is_read_where_nothing_may_be_written(
    nix_version: NixProgram, tmp_path: Path, mode: int, open_to_others: bool
) -> None:
    """`ProtectSystem=strict` makes all but the unit's own directory read-only."""
    if not shutil.which("bwrap"):
        pytest.skip("bwrap is not here: nothing is read-only")
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    own.mkdir()
    theirs.mkdir()
    env = _key_env(nix_version, theirs) | {"PUBLIC_FILE": str(own / "public-key")}
    assert _run("build-server/cache-key.sh", env=env).returncode == 0
    (own / "public-key").unlink()
    (theirs / "secret-key").chmod(mode)
    writable = ["--dev-bind", "/dev", "/dev", "--bind", str(own), str(own)]
    script = ["bash", *STRICT, str(MODULES / "build-server/cache-key.sh")]
    done = subprocess.run(
        ["bwrap", "--ro-bind", "/", "/", *writable, *script],
        env=env | {"KEY_MADE_HERE": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (own / "public-key").read_text().startswith("build-server-1:")
    said = f"{theirs / 'secret-key'} can be read by others"
    assert (said in done.stderr) == open_to_others


@pytest.mark.parametrize(
    ("late", "sets"),
    [(3600, True), (3, True), (2, False), (0, False), (-2, False), (-3, True)],
)
def test_the_clock_is_set_when_it_is_late(
    tmp_path: Path, late: int, sets: bool
) -> None:
    programs, called = tmp_path / "bin", tmp_path / "called"
    programs.mkdir()
    hwclock = programs / "hwclock"
    hwclock.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    # The machine's own clock stands still: how long the script takes is no lateness.
    clock = programs / "date"
    clock.write_text(f'#!/bin/sh\n[ "$*" = +%s ] && echo {NOW}\n')
    for program in (hwclock, clock):
        program.chmod(0o755)
    (tmp_path / "since_epoch").write_text(f"{NOW + late}\n")
    env = {"RTC": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    done = _run("wsl-clock.sh", env=env)
    assert done.returncode == 0, done.stderr
    assert called.exists() == sets
    if sets:
        assert called.read_text() == "--hctosys --utc\n"


def test_without_a_hardware_clock_nothing_is_set(tmp_path: Path) -> None:
    done = _run("wsl-clock.sh", env={"RTC": str(tmp_path / "none")})
    assert done.returncode == 0
    assert "there is no hardware clock" in done.stderr
