"""A phase is in the log once, whether or not its builder prints it."""

from __future__ import annotations

from collections.abc import Iterable

from ci.build.phases import Phases

DRV = "/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web-1.0.drv"
OTHER = "/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-lib-1.0.drv"


def log(*told: str, of: str = DRV, phases: Phases | None = None) -> list[str]:
    """The log of a builder: `@NAME` tells a phase, `.` ends it, the rest is printed."""
    phases = phases or Phases()
    written: list[bytes | None] = []
    for word in told:
        if word == ".":
            written.append(phases.ends(of))
        elif word.startswith("@"):
            written.append(phases.begins(of, word[1:]))
        else:
            written += [phases.says(of, word.encode()), word.encode()]
    return _lines(written)


def _lines(written: Iterable[bytes | None]) -> list[str]:
    return [line.decode() for line in written if line is not None]


def test_old_builders_tell_and_print_nothing() -> None:
    assert log("@unpackPhase", "unpacking", "@buildPhase", "cc", ".") == [
        *("Running phase: unpackPhase", "unpacking"),
        *("Running phase: buildPhase", "cc"),
    ]


def test_new_builders_print_before_or_after_they_tell() -> None:
    line = "Running phase: buildPhase"
    assert log(line, "@buildPhase", "cc", ".") == [line, "cc"]
    assert log("@buildPhase", line, "cc", ".") == [line, "cc"]
    assert log(line, "cc", "@buildPhase", "ld", ".") == [line, "cc", line, "ld"]


def test_a_phase_that_prints_nothing_is_there_all_the_same() -> None:
    assert log("@one", "@two", ".") == ["Running phase: one", "Running phase: two"]


def test_builders_do_not_mix() -> None:
    phases = Phases()
    assert log("@one", phases=phases) == []
    assert log("cc", of=OTHER, phases=phases) == ["cc"]
    assert log("ld", phases=phases) == ["Running phase: one", "ld"]


def test_a_name_is_one_line_and_not_endless() -> None:
    (line, _) = log("@a\nbuild-server: ok\x1b[31m" + "x" * 999, "cc")
    assert line.startswith("Running phase: a\\nbuild-server: ok\\x1b[31mxx")
    assert len(line) < 200
