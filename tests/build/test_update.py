"""When inputs are asked for next, and what their build is called."""

from __future__ import annotations

import pytest

from ci.build.update import DELAYS, due_in, title
from ci.history.updates import Asked

DAY = 86400.0


@pytest.mark.parametrize(
    ("last", "every", "now", "due"),
    [
        (Asked(0), DAY, 10**12, DAY - 10**9),
        (Asked(1000), DAY, 2000, DAY - 1),
        (Asked(9_000_000), DAY, 1000, DAY),
        (Asked(1000, 1, "e"), DAY, 1000, DELAYS[0]),
        (Asked(1000, 2, "e"), DAY, 2000, DELAYS[1] - 1),
        (Asked(1000, 99, "e"), DAY, 1000, DELAYS[-1]),
        (Asked(1000, 99, "e"), 5.0, 1000, 5.0),
    ],
)
def test_when_the_next_try_is_due(
    last: Asked, every: float, now: int, due: float
) -> None:
    assert due_in(last, every, now) == due


def test_the_title_names_the_inputs() -> None:
    assert title(["nixpkgs"]) == "flake update: nixpkgs (1 input)"
    many = [f"input-{number}" for number in range(7)]
    assert title(many).endswith("input-4, … (7 inputs)")
    assert title(["a\nb"]) == "flake update: a\\nb (1 input)"
    assert len(title(["x" * 5000])) < 80
