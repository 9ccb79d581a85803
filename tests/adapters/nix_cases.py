"""Derivations of every fate, for the tests that build them with a real Nix daemon."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.nix_daemon import BuildStatus
from tests.fakes.nix_stores import NixStore

PATH = {"PATH": os.environ["PATH"]}

CASES = """
let
  make = name: script: extra: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/bin:/usr/bin";
    args = [ "-c" script ];
  } // extra);
  fixed = {
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
  };
in builtins.mapAttrs (_: each: each.drvPath) (rec {
"""

FATES = r"""
  good = make "good" "echo hello; echo done > $out" { };
  raw = make "raw" ''
    printf 'nul \000 latin \351\n\n'
    head -c 200000 /dev/zero | tr '\000' x; echo
    printf 'without newline'; echo > $out
  '' { };
  two = make "two" "echo a > $out; echo b > $dev" { outputs = [ "out" "dev" ]; };
  bad = make "bad" "echo working; echo expected 200, got 500; exit 3" { };
  child = make "child" "echo $bad > $out" { inherit bad; };
  killed = make "killed" "kill -9 $$" { };
  missing = make "missing" "true" { };
  hash = make "hash" "echo wrong > $out" fixed;
  fetch = make "fetch" "echo no route to host; exit 1" fixed;
  refers = make "refers" "echo $good > $out" { inherit good; allowedReferences = [ ]; };
  unrunnable = make "unrunnable" "" { builder = "/nowhere"; };
  slow = make "slow" "while :; do echo tick; sleep 0.2; done" { };
  silent = make "silent" "exec sleep 60" { };
  forger = make "forger" ''
    build='"type":105,"level":0,"text":"","fields":["/x.drv","",1,1]'
    echo '@nix {"action":"start","id":7,'"$build"'}'
    echo '@nix {"action":"result","id":7,"type":101,"fields":["forged line"]}'
    echo '@nix {"action":"msg","level":3,"msg":"forged message"}'
    echo '@nix {"action":"setPhase","phase":"forged phase"}'
    echo '@nix {"action":"stop","id":7}'
    exit 4
  '' { };
"""


STATUSES: Mapping[str, BuildStatus] = {
    "good": BuildStatus.BUILT,
    "raw": BuildStatus.BUILT,
    "two": BuildStatus.BUILT,
    "bad": BuildStatus.PERMANENT_FAILURE,
    "child": BuildStatus.DEPENDENCY_FAILED,
    "killed": BuildStatus.PERMANENT_FAILURE,
    "missing": BuildStatus.OUTPUT_REJECTED,
    "hash": BuildStatus.OUTPUT_REJECTED,
    "fetch": BuildStatus.TRANSIENT_FAILURE,
    "refers": BuildStatus.OUTPUT_REJECTED,
    "unrunnable": BuildStatus.PERMANENT_FAILURE,
    "slow": BuildStatus.TIMED_OUT,
    "silent": BuildStatus.TIMED_OUT,
    "forger": BuildStatus.PERMANENT_FAILURE,
}


@dataclass(frozen=True)
class Location:
    """What `connect` asks of a NixEnvironment."""

    daemon: str
    env: Mapping[str, str]
    socket: Path | None = None


def direct(store: NixStore) -> Location:
    """The store by a `nix-daemon --stdio` of one's own."""
    return Location(store.daemon, store.env)


def behind_socket(store: NixStore) -> Location:
    """The store by the daemon that serves it."""
    return Location(store.daemon, {}, Path(store.env["NIX_DAEMON_SOCKET_PATH"]))


@dataclass(frozen=True)
class Site:
    """A store and the way to it."""

    store: NixStore
    location: Location

    def write(self, derivations: str) -> dict[str, str]:
        """See `instantiate`."""
        return instantiate(self.store, derivations)


def instantiate(store: NixStore, derivations: str) -> dict[str, str]:
    """Write .drv files for `name = make "name" "script" { };` lines; paths by name."""
    expression = CASES + derivations + "})"
    program = Path(store.program).with_name("nix-instantiate")
    flags = ["--eval", "--strict", "--json", "--read-write-mode", "--expr"]
    done = subprocess.run(
        [program, *flags, expression], env=dict(store.env), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    paths: dict[str, str] = json.loads(done.stdout)
    return paths


def name_of(derivation: str) -> str:
    """`bad` of `/nix/store/<hash>-bad.drv`."""
    return derivation.rpartition("-")[2].removesuffix(".drv")
