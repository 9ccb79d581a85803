"""The state machine: Hypothesis chooses what happens, driver.py makes it happen.

No rule depends on what the server answered: the same seed is the same story. An example
begins its server with the first thing that needs one.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.fakes.github import FakeGitHub
from tests.model.driver import FAULTS, PLACES, PUSHED, Driver
from tests.model.end import settle
from tests.model.refs import Script

Story = tuple[tuple[str, str], ...]

places = st.integers(0, len(PLACES) - 1)
picks = st.integers(0, 60)
told = st.sampled_from(PUSHED)
scripts = st.lists(
    st.sampled_from([Script.PASSES, Script.PASSES, *Script]), min_size=1, max_size=3
)


@dataclass
class Session:
    """What the examples of one test share: where to work, and what has failed.

    Once an example has failed, shrinking gets `shrink` seconds; after that no story is
    run any more, and the ones that failed fail again by heart. So a failure is told
    within minutes, and the same failure each time, be it ever so much a matter of luck.
    """

    folder: Path
    reconcile: bool
    shrink: float
    failures: dict[Story, BaseException] = field(default_factory=dict)
    stories: int = 0
    steps: int = 0
    log: list[str] = field(default_factory=list)
    _until: float = float("inf")
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def room(self) -> Path:
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def failed(self, story: Story, error: BaseException, driver: Driver) -> None:
        if not self.failures:
            self._until = time.monotonic() + self.shrink
            last = driver.server.raw if driver.server else []
            self.log = [*[*driver.log, *last][-60:], f"at first: {error}"]
        self.failures[story] = error

    @property
    def live(self) -> bool:
        """Whether stories are still run."""
        return time.monotonic() < self._until


class Machine(RuleBasedStateMachine):
    """Random pushes, kills and faults; `session` is set before it is run."""

    session: Session

    def __init__(self) -> None:
        super().__init__()
        self._live = self.session.live
        self._story: list[tuple[str, str]] = []
        self._runner: asyncio.Runner | None = None
        self._driver: Driver | None = None
        self._sandbox = False
        self._failed = False

    def _do(self, name: str, **arguments: Any) -> None:
        """Let the method `name` of the driver happen, and look at everything after."""
        self._story.append((name, repr(sorted(arguments.items()))))
        self._fail_again()
        if not self._live:
            return
        self.session.steps += 1
        self._run(lambda driver: getattr(driver, name)(**arguments))

    def _fail_again(self) -> None:
        """What has failed once fails again, without being run."""
        known = self.session.failures.get(tuple(self._story))
        if known is not None:
            self._failed = True
            raise known

    def _run(self, act: Callable[[Driver], Coroutine[Any, Any, None]]) -> None:
        try:
            driver = self._open()
            assert self._runner is not None
            self._runner.run(act(driver))
            driver.observe()
        except BaseException as error:
            self._failed = True
            if isinstance(error, Exception) and self._driver is not None:
                self.session.failed(tuple(self._story), error, self._driver)
            raise

    def _open(self) -> Driver:
        if self._driver is None:
            self.session.stories += 1
            self._runner = asyncio.Runner()
            self._driver = Driver(
                self.session.room(),
                sandbox=self._sandbox,
                reconcile=self.session.reconcile,
                github=FakeGitHub(),
            )
            self._runner.run(self._driver.open())
        return self._driver

    def teardown(self) -> None:
        """Heal everything; what was promised must have been kept."""
        try:
            self._story.append(("the end", ""))
            # Hypothesis gives up a story by an exception of its own.
            if not self._failed and sys.exc_info()[0] is None:
                self._fail_again()
                if self._driver is not None:
                    self._run(settle)
        finally:
            if self._runner is not None:
                if self._driver is not None:
                    self._runner.run(self._driver.close())
                self._runner.close()

    @initialize(sandbox=st.sampled_from([False, False, True]))
    def begin(self, sandbox: bool) -> None:
        """Whether commands run under bubblewrap: then they leave no locks to look at."""
        self._sandbox = sandbox
        self._story.append(("begin", str(sandbox)))

    # Shortest first: what Hypothesis thinks simplest is a moment of nothing.

    @rule()
    def a_moment(self) -> None:
        """Nothing happens."""

    @rule(milliseconds=st.integers(0, 400))
    def wait(self, milliseconds: int) -> None:
        self._do("wait", seconds=milliseconds / 1000)

    # Three ways to push: what is pushed is what everything else happens to.

    @rule(place=places, scripts=scripts, told=told)
    def push(self, place: int, scripts: list[Script], told: str) -> None:
        self._do("push", place=place, scripts=scripts, told=told)

    @rule(scripts=scripts, told=told)
    def push_to_dev(self, scripts: list[Script], told: str) -> None:
        self._do("push", place=0, scripts=scripts, told=told)

    @rule(place=places, scripts=scripts)
    def push_and_wait(self, place: int, scripts: list[Script]) -> None:
        self._do("push", place=place, scripts=scripts, told="told")
        self._do("wait", seconds=0.2)

    @rule(place=places, back=st.integers(1, 3), scripts=scripts, told=told)
    def rewrite(self, place: int, back: int, scripts: list[Script], told: str) -> None:
        self._do("rewrite", place=place, back=back, scripts=scripts, told=told)

    @rule(place=places, pick=picks, told=told)
    def point(self, place: int, pick: int, told: str) -> None:
        self._do("point", place=place, pick=pick, told=told)

    @rule(place=places, told=told)
    def delete(self, place: int, told: str) -> None:
        self._do("delete", place=place, told=told)

    @rule(pick=picks)
    def deliver_again(self, pick: int) -> None:
        self._do("again", pick=pick)

    @rule(pick=picks)
    def deliver_late(self, pick: int) -> None:
        self._do("late", pick=pick)

    @rule(pick=picks)
    def replay(self, pick: int) -> None:
        self._do("replay", pick=pick)

    @rule(then=st.sampled_from(["start", "start", ""]))
    def kill(self, then: str) -> None:
        self._do("kill")
        if then:
            self._do(then)

    @rule(
        signals=st.sampled_from([1, 1, 2]), then=st.sampled_from(["start", "start", ""])
    )
    def stop(self, signals: int, then: str) -> None:
        self._do("stop", signals=signals)
        if then:
            self._do(then)

    @rule(then=st.sampled_from(["thaw", ""]), milliseconds=st.integers(0, 300))
    def freeze(self, then: str, milliseconds: int) -> None:
        self._do("freeze")
        self._do("wait", seconds=milliseconds / 1000)
        if then:
            self._do(then)

    @rule()
    def wake_up(self) -> None:
        self._do("start")
        self._do("thaw")

    @rule(fault=st.sampled_from(sorted(FAULTS)), times=st.integers(1, 3))
    def github_stumbles(self, fault: str, times: int) -> None:
        self._do("stumble", fault=fault, times=times)

    @rule(up=st.booleans())
    def github_goes_or_comes(self, up: bool) -> None:
        self._do("outage", up=up)

    @rule(mode=st.sampled_from(["up", "up", "down", "cut"]))
    def network(self, mode: str) -> None:
        self._do("connect", mode=mode)

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        self._do("cancel", pick=pick)

    @rule(pick=picks)
    def retry(self, pick: int) -> None:
        self._do("retry", pick=pick)

    @rule(place=places, pick=st.none() | picks, force=st.booleans())
    def trigger(self, place: int, pick: int | None, force: bool) -> None:
        self._do("trigger", place=place, pick=pick, force=force)
