"""The units of the NixOS module under a real systemd, with bubblewrap below their limits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.booted import Booted, CannotBoot, visible
from tests.fakes.tree import CHECKOUT
from tests.fakes.waiting import wait_until
from tests.nix import units
from tests.nix.evaluation import Evaluation

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

SERVER = Path("nix/modules/nixos/build-server")
SECRET = "a-secret-of-the-test"
MACHINE = """{
  services.build-server = {
    enable = true;
    settings = {
      github = { api_url = "http://127.0.0.1:9"; reconcile_every = "never"; };
      repository = [
        {
          name = "owner/site";
          url = "/srv/git/site";
          builder = "command";
          command = [ "sh" "-c" "grep Seccomp: /proc/self/status; hostname" ];
        }
        {
          name = "owner/broken";
          url = "/srv/git/site";
          builder = "command";
          command = [ "false" ];
        }
      ];
      notify.on = [ "broken" ];
    };
    secrets.webhookSecretFile = "/run/test/webhook";
    secrets.notifyUrlsFile = "/run/test/notify-urls";
  };
}"""
ASK = {
    "service": "config.systemd.services.build-server",
    "sockets": "config.systemd.sockets",
    "file": "config.services.build-server.configFile.unchecked.value",
}
PREPARE = f"""
(umask 077; echo {SECRET} > /run/test/webhook)
(umask 077; echo json://127.0.0.1:8099/t0ken > /run/test/notify-urls)
cp {{config}} /run/test/config.toml
mkdir -p /srv/git/site
cd /srv/git/site
git init --quiet --initial-branch=dev
git -c user.name=t -c user.email=t@example.com commit --quiet --allow-empty -m one
chown -R 990:990 /srv/git
ip address add 100.64.1.1/32 dev lo
ip address add 192.168.77.1/32 dev lo
"""
# Takes the messages, one per line of the file.
MAILBOX = """
import http.server

class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/run/test/mail", "ab") as mail:
            mail.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", 8099), Take).serve_forever()
"""
# This Python may be below /root, which the unit hides; the rest is the unit's own.
HERE = f"""
[Service]
ProtectHome=tmpfs
{visible()}
Environment=PYTHONPATH={CHECKOUT}
Environment=PATH=/usr/bin:/bin
"""


# The same machine with its pages on loopback alone.
MOVED = '{ services.build-server.listenAddress = "127.0.0.1"; }'


def _written(evaluation: Evaluation, work: Path, *more: str) -> dict[str, str]:
    """The units of the machine by file name, and its configuration in `work`."""
    said = evaluation.nixos(SERVER, MACHINE, *more, ask=ASK)
    service = re.sub(
        "ExecStart=.*",
        f"ExecStart={sys.executable} -m ci serve --config /run/test/config.toml",
        units.unit("service", said["service"]),
    )
    if _systemd() < 253:
        reload = "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"
        service = service.replace("Type=notify-reload", reload)
    service += f"{HERE}StandardError=append:{work}/machine/said\n"
    written = {"build-server.service": service} | {
        f"{name}.socket": units.unit("socket", one)
        for name, one in said["sockets"].items()
    }
    (work / "config.toml").write_text(units.toml(said["file"]))
    return {
        name: text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n", 1)
        for name, text in written.items()
    }


@pytest.fixture
def booted(evaluation: Evaluation, tmp_path: Path) -> Iterator[Booted]:
    alone = _written(evaluation, tmp_path)
    program = tmp_path / "mailbox.py"
    program.write_text(MAILBOX)
    run = f"ExecStart={sys.executable} {program}\n"
    alone["mailbox.service"] = f"[Unit]\nDefaultDependencies=no\n[Service]\n{run}"
    config = tmp_path / "config.toml"
    try:
        with Booted(tmp_path / "machine", alone, PREPARE.format(config=config)) as here:
            yield here
    except CannotBoot as error:
        pytest.skip(f"{error}: the units were not started, bubblewrap not below them")


def _systemd() -> int:
    said = subprocess.run(
        ["systemctl", "--version"], capture_output=True, text=True, check=True
    )
    return int(said.stdout.split()[1])


def _code(booted: Booted, *argv: str, within: int = 60) -> str:
    """The status that curl gets; 000 when no answer comes within so many seconds."""
    told = ["--silent", "--max-time", str(within), "--output", "/dev/null"]
    return booted.run("curl", *told, "--write-out", "%{http_code}", *argv)


async def test_the_service_under_systemd(booted: Booted) -> None:
    await wait_until(lambda: booted.up, what="systemd")
    sockets = _sockets(booted)
    booted.run("systemctl", "start", *sockets)

    # The first who knocks starts it; the sockets are those of systemd.
    assert _code(booted, "--retry", "3", "http://localhost:8000/health") == "200"
    state = booted.show("build-server", "ActiveState", "StatusText", "NRestarts")
    assert state["ActiveState"] == "active", booted.said.read_text()
    assert "public http://127.0.0.1:8010" in state["StatusText"]

    # Who may: the machine and the tailnet; nobody else, and there is no firewall here.
    health = ("--header", "Host: localhost")
    assert _code(booted, *health, "http://100.64.1.1:8000/health") == "200"
    refused = (*health, "http://192.168.77.1:8000/health")
    assert _code(booted, *refused, within=5) == "000"
    webhook = ("--request", "POST", "http://127.0.0.1:8010/webhook")
    assert _code(booted, *webhook) == "401"

    # A build: bubblewrap works below the filter, with a host name of its own.
    body = ("--header", "Content-Type: application/json", "--data", "{}")
    asked = booted.run("curl", "--silent", *body, "http://localhost:8000/build/trigger")
    assert json.loads(asked)["status"] == "triggered", asked
    await wait_until(lambda: _last(booted) == "success", what="the build")
    log = json.loads(booted.run("curl", "--silent", "http://localhost:8000/build/logs"))
    assert log["logs"][:2] == ["Seccomp:\t2", "build"]

    # A message: Apprise, a process of its own, works below the same limits.
    booted.run("systemctl", "start", "mailbox")
    broken = ("--header", body[1], "--data", json.dumps({"repo": "owner/broken"}))
    asked = booted.run(
        "curl", "--silent", *broken, "http://localhost:8000/build/trigger"
    )
    assert json.loads(asked)["status"] == "triggered", asked
    await wait_until(lambda: _mail(booted), what="the message")
    (message,) = _mail(booted)
    assert message["title"] == "✗ dev of owner/broken is broken: false"

    # It cannot write elsewhere; its state is its own.
    state_dir = booted.run("stat", "--format=%a %U", "/var/lib/build-server").split()
    assert state_dir == ["750", "build-server"]

    # A restart keeps callers; a crash starts it again.
    former = _start(booted)
    booted.run("systemctl", "restart", "--no-block", "build-server")
    assert _code(booted, *webhook) == "401"
    # It is active before that, too.
    await wait_until(lambda: _start(booted) != former, what="the restart")
    await wait_until(lambda: _active(booted), what="the end of the restart")
    booted.run("systemctl", "reload", "build-server")
    await wait_until(lambda: _active(booted), what="the end of the reload")
    booted.run("systemctl", "kill", "--signal=KILL", "build-server")
    await wait_until(
        lambda: booted.show("build-server", "NRestarts")["NRestarts"] == "1",
        what="the start after the crash",
    )
    await wait_until(lambda: _active(booted), what="the server after the crash")

    # A damaged history is refused, once for each who asks, and never in a loop.
    booted.run("systemctl", "stop", *sockets, "build-server")
    damage = "head -c 8192 /dev/zero | tr '\\0' x > /var/lib/build-server/history.db"
    booted.run("sh", "-c", f"{damage}; systemctl start {sockets[0]} build-server")
    before = _failed(booted)
    assert _code(booted, *webhook, within=5) == "000"
    await wait_until(lambda: _failed(booted) != before, what="one more try")
    assert booted.said.read_text().count("history.db is damaged") == 2
    assert booted.show("build-server", "NRestarts")["NRestarts"] == "0"
    listening = booted.show(sockets[0], "ActiveState", "SubState")
    assert listening == {"ActiveState": "active", "SubState": "listening"}


async def test_a_switch_moves_the_listeners(
    booted: Booted, evaluation: Evaluation, tmp_path: Path
) -> None:
    """What NixOS's switch-to-configuration does: it restarts services, and no sockets."""
    await wait_until(lambda: booted.up, 30, what="systemd")
    before = _sockets(booted)
    booted.run("systemctl", "start", *before, "build-server")
    health = ("--header", "Host: localhost")
    assert _code(booted, *health, "http://100.64.1.1:8000/health") == "200"

    place = Path("/run/systemd/system")
    after = _written(evaluation, tmp_path, MOVED)
    booted.run("cp", str(tmp_path / "config.toml"), "/run/test/config.toml")
    gone = [name for name in before if name not in after]
    booted.run("systemctl", "stop", *gone)
    booted.run("rm", *(str(place / name) for name in gone))
    for name, text in after.items():
        (tmp_path / name).write_text(text)
        booted.run("cp", str(tmp_path / name), str(place))
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "restart", "build-server")
    booted.run("systemctl", "start", *_sockets(booted))

    await wait_until(lambda: _active(booted), 15, what="the server after the switch")
    assert _code(booted, *health, "http://127.0.0.1:8000/health") == "200"
    assert _code(booted, *health, "http://100.64.1.1:8000/health", within=5) == "000"
    webhook = ("--request", "POST", "http://127.0.0.1:8010/webhook")
    assert _code(booted, *webhook) == "401"
    # Opened by systemd again: a restart keeps callers.
    booted.run("systemctl", "restart", "--no-block", "build-server")
    assert _code(booted, *health, "http://127.0.0.1:8000/health") == "200"


def _sockets(booted: Booted) -> list[str]:
    """The unit's own, the public one first."""
    named = booted.run("sh", "-c", "cd /run/systemd/system; echo *.socket").split()
    return sorted(named, reverse=True)


# A Nix of its own, in an empty /nix, behind its daemon as on NixOS.
KEY_MACHINE = """
mkdir -p /nix
mount -t tmpfs tmpfs /nix
mkdir -p /nix/store /nix/var/nix/daemon-socket
nix-store --generate-binary-cache-key theirs-1 /run/test/their-key /run/test/their-public
chmod 400 /run/test/their-key
"""
DAEMON = {
    "nix-daemon.socket": "[Unit]\nDefaultDependencies=no\n"
    "[Socket]\nListenStream=/nix/var/nix/daemon-socket/socket\n",
    "nix-daemon.service": "[Unit]\nDefaultDependencies=no\n"
    "[Service]\nExecStart=/usr/bin/nix-daemon --daemon\n",
}
CACHE = "{ services.build-server.harmonia.enable = true; %s }"
THEIRS = """services.build-server.harmonia = {
  keyFile = "/run/test/their-key";
  keyName = "theirs-1";
};"""


async def test_the_cache_key_under_systemd(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """All but its own directory is read-only; the key is made there, or elsewhere already."""
    ask = "config.systemd.services.build-server-cache-key"
    script = CHECKOUT / SERVER / "cache-key.sh"
    run = f"ExecStart=/bin/bash -euo pipefail {script}\nProtectHome=tmpfs\n{visible()}"
    run += f"StandardError=append:{tmp_path}/machine/said\n"
    written = dict(DAEMON)
    for name, more in (("ours", ""), ("theirs", THEIRS)):
        said = evaluation.nixos(SERVER, MACHINE, CACHE % more, ask=ask)
        text = units.unit("service", said).replace("ProtectHome=read-only\n", "")
        text = re.sub("ExecStart=.*\n", lambda _: run, text)
        text = text.replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n", 1)
        written[f"{name}.service"] = text
    try:
        with Booted(tmp_path / "machine", written, KEY_MACHINE) as booted:
            await wait_until(lambda: booted.up, 30, what="systemd")
            booted.run("systemctl", "start", "nix-daemon.socket")
            place = "/var/lib/build-server-cache"
            for unit, key in (("ours", "build-server-1"), ("theirs", "theirs-1")):
                booted.run("systemctl", "start", unit)
                ended = booted.show(unit, "Result", "ActiveState")
                good = {"Result": "success", "ActiveState": "active"}
                assert ended == good, booted.said.read_text()
                public = booted.run("cat", f"{place}/public-key")
                assert re.fullmatch(rf"{key}:[A-Za-z0-9+/]{{43}}=\n", public)
            modes = booted.run("stat", "--format=%a", f"{place}/secret-key", place)
            assert modes.split() == ["600", "755"]
            mode = booted.run("stat", "--format=%a", "/run/test/their-key")
            assert mode == "400\n"
    except CannotBoot as error:
        pytest.skip(f"{error}: the cache's key was not made under systemd")


def _last(booted: Booted) -> object:
    said = booted.run("curl", "--silent", "http://localhost:8000/build/status")
    return json.loads(said)["last_status"]


def _mail(booted: Booted) -> list[dict[str, str]]:
    """The messages that came; the mailbox makes the file at the first."""
    lines = booted.run("sh", "-c", "cat /run/test/mail 2>/dev/null").splitlines()
    return [json.loads(line) for line in lines]


def _active(booted: Booted) -> bool:
    return booted.show("build-server", "ActiveState")["ActiveState"] == "active"


def _start(booted: Booted) -> str:
    """A name for the present start; another one after each."""
    return booted.show("build-server", "InvocationID")["InvocationID"]


def _failed(booted: Booted) -> str:
    """When it last ended because of its history; empty while it runs."""
    properties = ("ActiveState", "ExecMainStatus", "ExecMainExitTimestampMonotonic")
    found = booted.show("build-server", *properties)
    ended = found["ActiveState"] == "failed" and found["ExecMainStatus"] == "3"
    return found["ExecMainExitTimestampMonotonic"] if ended else ""
