"""What Nix printed, as recorded, and what people are told of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ci.adapters.nix_eval.faults import (
    Places,
    fetch_fault,
    first_line,
    host_fault,
    plain,
    without_internals,
    worded,
)
from ci.errors import (
    CommitFault,
    DaemonLost,
    DiskFull,
    HostFault,
    HostLimit,
    NetworkDown,
)

RECORDED = Path(__file__).resolve().parents[1] / "samples/nix/errors"
VERSIONS = ("2.8.0", "2.34.8")
SOURCE = "/nix/store/00000000000000000000000000000000-source"
PLACES = Places("/nix/store", "/srv/mirror", SOURCE)

LINES = {
    "thrown": "the first line (flake.nix:20)",
    "missing": "attribute 'helo' missing; did you mean hello? (flake.nix:32)",
    "mistyped": "cannot add a string to an integer (flake.nix:30)",
    "inAttribute": "the library says no (library.nix:2)",
    "imported": (
        "import from derivation is off: set `import_from_derivation = true` for this "
        "repository to allow it (it needs `imported` built first)"
    ),
    "daemon": "cannot connect to socket at '/nowhere/socket': No such file or directory",
    "memory": "out of memory",
}
DIFFERENT = {
    ("2.8.0", "asserted"): "assertion '(1 == 2)' failed (flake.nix:28)",
    (
        "2.34.8",
        "asserted",
    ): "assertion '(1 == 2)' failed: an integer with value '1' is not "
    "equal to an integer with value '2' (flake.nix:28)",
    ("2.8.0", "breaks"): "builder for 'breaks.drv' failed with exit code 7",
    ("2.34.8", "breaks"): "Cannot build 'breaks.drv': builder failed with exit code 7",
    ("2.8.0", "deep"): "stack overflow (possible infinite recursion)",
    ("2.34.8", "deep"): "stack overflow; max-call-depth exceeded (flake.nix:34)",
    ("2.8.0", "full"): "writing to file: No space left on device",
    ("2.34.8", "full"): "write of 65536 bytes: No space left on device",
}


def recorded(version: str, name: str) -> str:
    return plain((RECORDED / version / f"{name}.txt").read_bytes())


@pytest.mark.parametrize(
    ("version", "name", "line"),
    [
        *(
            (version, name, line)
            for name, line in LINES.items()
            for version in VERSIONS
        ),
        *((version, name, line) for (version, name), line in DIFFERENT.items()),
    ],
)
def test_the_first_line(version: str, name: str, line: str) -> None:
    assert first_line(recorded(version, name), PLACES) == line


@pytest.mark.parametrize("version", VERSIONS)
def test_people_are_shown_the_place_first_and_no_more_than_they_read(
    version: str,
) -> None:
    thrown = worded(first_line(recorded(version, "thrown"), PLACES))
    assert thrown == "flake.nix:20: the first line"
    long = worded(first_line(f"error: {'n' * 900}", PLACES))
    assert long == "n" * 199 + "…"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("daemon", DaemonLost),
        ("full", DiskFull),
        ("memory", HostLimit),
        ("thrown", None),
        ("deep", None),
        ("breaks", None),
    ],
)
def test_what_the_host_is_to_blame_for(
    version: str, name: str, fault: type[HostFault] | None
) -> None:
    output = recorded(version, name)
    found = host_fault(output, first_line(output, PLACES))
    assert type(found) is (fault or type(None))


def test_a_commit_cannot_easily_blame_the_host() -> None:
    for message in ("No space left on device", "the disk is full", "unexpected end"):
        output = (
            f"error: evaluation aborted with the following error message: '{message}'"
        )
        assert host_fault(output, first_line(output, PLACES)) is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "fault", "detail"),
    [
        (
            "refused",
            NetworkDown,
            "unable to download 'http://cache.example/dep.tar.gz': C",
        ),
        (
            "unresolved",
            NetworkDown,
            "unable to download 'http://nowhere.invalid/dep.tar.gz",
        ),
        (
            "gone",
            HostFault,
            "unable to download 'http://cache.example/gone.tar.gz': HTTP",
        ),
        ("changed", CommitFault, "run `nix flake update dep` and commit flake.lock"),
    ],
)
def test_why_an_input_cannot_be_fetched(
    version: str, name: str, fault: type[Exception], detail: str
) -> None:
    output = recorded(version, name)
    found = fetch_fault(output, first_line(output, PLACES), "dep")
    assert type(found) is fault
    assert detail in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name", ["thrown", "missing", "asserted", "breaks", "imported"]
)
def test_the_log_does_not_show_our_own_expression(version: str, name: str) -> None:
    output = recorded(version, name)
    shown = without_internals(output)
    assert "«string»" in output
    assert "«string»" not in shown
    assert "builtins.getFlake" not in shown
    assert first_line(shown, PLACES) == first_line(output, PLACES)
    if name != "breaks":
        assert output.count("flake.nix:") == shown.count("flake.nix:")


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", "Nix failed and said nothing"),
        (
            "bwrap: Can't find source path /x: No such file",
            "bwrap: Can't find source path /x: N",
        ),
        ("error:\n\n       three\n       four", "three"),
        (
            "error: a\nerror: «github:o/r/0f?narHash=x»/f.nix is bad",
            "«github:o/r/0f»/f.nix is b",
        ),
        ("\x1b[31;1merror:\x1b[0m red", "red"),
        (
            "error:\n       Failed assertions:\n       - write a\n       - write b\n\n x",
            "failed assertions: write a; write b",
        ),
        ("error: Failed assertions:\n- write a", "failed assertions: write a"),
    ],
)
def test_odd_ends(output: str, line: str) -> None:
    assert first_line(plain(output.encode()), PLACES).startswith(line)


@pytest.mark.parametrize(
    "text",
    [
        "«" * 1_000_000,
        "«git+file:///srv/mirror?" * 40_000,
        "cannot build '" + "^" * 1_000_000,
        "unable to download '" * 50_000,
        "at " * 300_000,
        "at flake.nix:1" + ":1" * 500_000,
        "\x1b]" * 500_000,
        "error:" * 150_000,
        "\n \t" * 300_000,
    ],
    ids=range(9),
)
def test_no_message_keeps_the_server_busy(text: str) -> None:
    output = f"error: x\nerror: {text}\n       {text}\n"
    begun = time.process_time()
    line = first_line(plain(output.encode()), PLACES)
    host_fault(output, line)
    fetch_fault(output, line, "dep")
    PLACES.shorten(without_internals(output))
    assert time.process_time() - begun < 2.0
    assert len(line) < 2000
