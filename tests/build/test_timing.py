"""Ends that Nix 2.8 tells too late, put where its results say they were."""

from __future__ import annotations

from ci.adapters.nix_daemon import BuildResult, BuildStatus
from ci.build.job import Progress
from ci.build.timing import place_ends

S = 1_700_000_000_000


def result(path: str, second: int) -> BuildResult:
    return BuildResult(path, BuildStatus.BUILT, "", {}, second)


def progress(**stays: tuple[int, int | None]) -> Progress:
    found = Progress()
    for path, (begun, ended) in stays.items():
        found.derivations[path, ""] = (S + begun, None if ended is None else S + ended)
    return found


def ends(found: Progress) -> dict[str, int | None]:
    return {
        path: None if ended is None else ended - S
        for (path, _), (_, ended) in found.derivations.items()
    }


def test_an_end_is_where_a_builder_was_counted_off_in_its_second() -> None:
    found = progress(a=(100, 9000), b=(200, 9000), c=(2500, 9000))
    seconds = {"a": S // 1000 + 1, "b": S // 1000 + 4, "c": S // 1000 + 8}
    results = {path: result(path, second) for path, second in seconds.items()}
    corrected = place_ends(found, results, [S + 1400, S + 4900, S + 9000])
    assert ends(found) == {"a": 1400, "b": 4900, "c": 9000}
    assert corrected == {"a": 1.3, "b": 4.7, "c": 6.5}


def test_a_count_that_comes_just_after_its_second_belongs_to_it() -> None:
    """Else it would be taken for an earlier end, of another derivation."""
    found = progress(a=(100, 9000), c=(100, 9000))
    results = {path: result(path, S // 1000 + 1) for path in "ac"}
    place_ends(found, results, [S + 1050, S + 2010, S + 9000])
    assert ends(found) == {"a": 2010, "c": 2010}


def test_without_a_count_an_end_is_no_earlier_than_it_can_have_been() -> None:
    found = progress(a=(100, 9000))
    place_ends(found, {"a": result("a", S // 1000 + 1)}, [])
    assert ends(found) == {"a": 2250}


def test_what_the_daemon_tells_at_once_stays_as_it_was_told() -> None:
    """2.34 gives no second; and no end moves before its begin, or where none was told."""
    found = progress(a=(100, 9000), b=(200, None), c=(5000, 9000), d=(1, 2))
    results = {
        "a": result("a", 0),
        "b": result("b", S // 1000 + 1),
        "c": result("c", S // 1000 + 1),
    }
    assert place_ends(found, results, []) == {"c": 0.0}
    assert ends(found) == {"a": 9000, "b": None, "c": 5000, "d": 2}
