"""Random pushes, kills, freezes and faults against the real server, and a model of refs.

A run is one story after the other, of some forty steps each, until the time is up; each
has a seed, which is printed before it begins. `make test` tells the same stories each
time, `make soak` others. `MODEL_SEED=… make test ARGS="tests/model -s"` tells that one
story again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine, Session

SECONDS = 60.0
# Of the first story in each run of the tests; the others follow it.
FIRST = 20261120
# What a story takes: none is begun when less time is left.
STORY = 6.0
STEPS = 40
# Seconds for making the story of a failure shorter.
SHRINK = 120.0

# The first example is the simplest one, in which nothing happens; the second is chosen.
SETTINGS = settings(
    max_examples=2,
    stateful_step_count=STEPS,
    phases=[Phase.generate, Phase.shrink],
    deadline=None,
    database=None,
    derandomize=False,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def _seeds(first: int, seconds: float) -> Iterator[int]:
    """One seed after the other until the time is up; only MODEL_SEED when that is set."""
    asked = os.environ.get("MODEL_SEED")
    if asked:
        yield int(asked)
        return
    until = time.monotonic() + seconds - STORY
    for number in count(first):
        if time.monotonic() > until:
            return
        yield number


def _run(folder: Path, first: int, seconds: float) -> None:
    session = Session(folder, reconcile=True, shrink=SHRINK)

    class Told(Machine):
        pass

    Told.session = session
    for number in _seeds(first, seconds):
        print(f"MODEL_SEED={number}", flush=True)
        try:
            run_state_machine_as_test(seed(number)(Told), settings=SETTINGS)
        except BaseException:
            print(f"the server of MODEL_SEED={number} said:", *session.log, sep="\n")
            raise
    print(f"{session.stories} stories, {session.steps} steps")


@pytest.mark.timeout(1200)
def test_a_minute_of_random_faults_breaks_no_promise(tmp_path: Path) -> None:
    _run(tmp_path, FIRST, SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_hours_of_random_faults_break_no_promise(tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(10**9)
    _run(tmp_path, first, float(os.environ.get("SOAK_SECONDS", "600")))
