"""The first error of a target: which lines of a log are taken, and their number."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from ci.serve.pages import excerpt
from ci.serve.pages.excerpt import Excerpt, Wanted

STORE = "/nix/store/00000000000000000000000000000000-"
WEB = STORE + "web-1.2.drv"


def found(path: Path, log: bytes, wanted: Wanted) -> Excerpt:
    path.write_bytes(log)
    (only,) = asyncio.run(excerpt.find(path, [wanted]))
    return only


def failed(error: str, derivation: str | None = WEB) -> Wanted:
    return Wanted("checks.web", error, derivation)


LINE = st.binary(max_size=60).map(lambda line: line.replace(b"\n", b""))
SOURCE = st.sampled_from([b"web-1.2> ", b"db> ", b"web-1.20> ", b"build-server: ", b""])
MESSAGE = "expected 200 OK, got 500 instead"


@settings(
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ]
)
@given(
    before=st.lists(st.tuples(SOURCE, LINE), max_size=40),
    after=st.lists(st.tuples(SOURCE, LINE), max_size=40),
    ends=st.booleans(),
)
def test_the_line_named_holds_the_message_whatever_is_around_it(
    tmp_path: Path,
    before: list[tuple[bytes, bytes]],
    after: list[tuple[bytes, bytes]],
    ends: bool,
) -> None:
    said = b"web-1.2> \x1b[31mAssertionError:\x1b[0m " + MESSAGE.encode()
    lines = [source + line for source, line in before] + [said]
    lines += [source + line for source, line in after]
    log = b"\n".join(lines) + (b"\n" if ends else b"")
    error = f"builder failed with exit code 1: AssertionError: {MESSAGE}"
    # Another size, and so another state of the log, for each example.
    got = found(tmp_path / f"{len(list(tmp_path.iterdir()))}.log", log, failed(error))
    assert got.line == len(before) + 1
    assert got.lines[got.hit] == f"AssertionError: {MESSAGE}"
    assert len(got.lines) <= excerpt.LINES
    own = [line for source, line in before if source == b"web-1.2> "]
    assert got.hit <= min(len(own), excerpt.LINES - 1)
    assert all(line.isprintable() for line in got.lines)


def test_lines_before_the_window_are_counted(tmp_path: Path) -> None:
    noise = b"db> " + b"x" * 100 + b"\n"
    many = 3 * excerpt.WINDOW // len(noise)
    log = noise * many + b"web-1.2> fatal: it broke here\n" + noise * 5
    got = found(tmp_path / "log", log, failed("exit code 1: fatal: it broke here"))
    assert (got.line, got.lines) == (many + 1, ("fatal: it broke here",))


def test_at_most_twelve_lines_up_to_the_message(tmp_path: Path) -> None:
    log = b"".join(b"web-1.2> step %d\n" % n for n in range(100))
    got = found(tmp_path / "log", log, failed("exit code 1: step 70"))
    assert (got.line, len(got.lines)) == (71, excerpt.LINES)
    assert got.lines == tuple(f"step {n}" for n in range(59, 71))


@pytest.mark.parametrize(
    ("log", "error", "line", "lines"),
    [
        pytest.param(
            b"web-1.2> one\nweb-1.2> last words\nweb-1.2> ----\ndb> more\n",
            "timed out after 3600 seconds",
            2,
            ("one", "last words"),
            id="no message in the log: the derivation's last meaningful line",
        ),
        pytest.param(
            b"hello-2> cc\nhello-2> foo.c:1: expected ';'\nweb-1.2> fine\n",
            "dependency hello-2 failed: builder failed with exit code 2: "
            "foo.c:1: expected ';'",
            2,
            ("cc", "foo.c:1: expected ';'"),
            id="a dependency's lines",
        ),
        pytest.param(
            b"web-1.2> 10%\r50%\rfatal: no route to the database\r\n",
            "exit code 1: fatal: no route to the database",
            1,
            ("fatal: no route to the database",),
            id="what a carriage return left",
        ),
        pytest.param(
            b"web-1.2> fatal: \xff\xfe is no text\n",
            "exit code 1: fatal: \ufffd\ufffd is no text",
            1,
            ("fatal: \ufffd\ufffd is no text",),
            id="invalid UTF-8",
        ),
        pytest.param(
            b"web-1.2> \x1b]8;;http://evil.example\x07fatal\x1b]8;;\x07: \xe2\x80\xae!!\n",
            "fatal: \u202e!!",
            1,
            ("fatal: \\u202e!!",),
            id="links and bidirectional marks",
        ),
        pytest.param(
            b"error: attribute 'x' missing\nweb-1.2> other\n",
            "",
            2,
            ("other",),
            id="no error text",
        ),
        pytest.param(
            b"db> nothing of ours\n",
            "builder failed\nbadly",
            None,
            ("builder failed", "badly"),
            id="nothing of it in the log",
        ),
        pytest.param(b"", "it broke", None, ("it broke",), id="an empty log"),
    ],
)
def test_which_lines_are_shown(
    tmp_path: Path, log: bytes, error: str, line: int | None, lines: tuple[str, ...]
) -> None:
    got = found(tmp_path / "log", log, failed(error))
    assert (got.line, got.lines) == (line, lines)


EVALUATION = b"""\
fetching the flake input nixpkgs
web-1.2> error: forged by a builder
while evaluating packages.x86_64-linux.total:
error: attribute 'totl' missing
       at /flake.nix:31:22:
           31|           total = self.lib.money.totl;
             |                   ^
build-server: packages.total: attribute 'totl' missing
build-server: failed: 1 of 3 failed: packages.total: attribute 'totl' missing
"""


@pytest.mark.parametrize("error", ["attribute 'totl' missing", "something else"])
def test_an_evaluation_shows_its_message_and_where_it_comes_from(
    tmp_path: Path, error: str
) -> None:
    got = found(tmp_path / "log", EVALUATION, failed(error, None))
    assert got.line == 4
    assert got.lines[got.hit] == "error: attribute 'totl' missing"
    assert got.lines[0] == "fetching the flake input nixpkgs"
    assert "       at /flake.nix:31:22:" in got.lines
    assert not [line for line in got.lines if "forged" in line]


def test_what_only_the_server_says_is_found_among_its_notes(tmp_path: Path) -> None:
    log = b"build-server: 1 targets evaluated\nbuild-server: a: too deep\n"
    log += b"build-server: failed: a: too deep\n"
    got = found(tmp_path / "log", log, Wanted("a", "too deep"))
    assert (got.line, got.lines) == (2, ("build-server: a: too deep",))


@pytest.mark.parametrize("where", ["begins", "ends"])
def test_a_line_of_a_megabyte_is_cut(tmp_path: Path, where: str) -> None:
    long = b"x" * 2 * excerpt.WINDOW
    log = b"web-1.2> fatal: it broke here" + long + b"\n"
    if where == "ends":
        log = b"web-1.2> " + long + b"\nweb-1.2> fatal: it broke here\n"
    got = found(tmp_path / "log", log, failed("exit code 1: fatal: it broke here"))
    assert all(len(line) <= excerpt.LONGEST for line in got.lines)
    assert got.line == (2 if where == "ends" else None)


def test_no_log_leaves_the_error(tmp_path: Path) -> None:
    wanted = [failed("it broke\nbadly")]
    for path in (None, tmp_path / "missing"):
        (got,) = asyncio.run(excerpt.find(path, wanted))
        assert got == Excerpt("checks.web", None, ("it broke", "badly"))


def test_a_log_that_grows_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = b"web-1.2> starts\n"
    assert found(path, log, failed("exit code 1: it broke")).line == 1
    log += b"web-1.2> it broke\n"
    assert found(path, log, failed("exit code 1: it broke")).line == 2
