"""Who is told what, and how often: real rows, an address that has bad days."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings as hypothesis_settings, strategies as st

from ci import config
from ci.adapters.apprise import Delivery, Message
from ci.errors import HostFault
from ci.history import notices, queue, repositories, states
from ci.history.database import Database
from ci.models import BuildState, Cause, Check, Commit, Target
from ci.report.notify import HOUR_MS, Notifier, Pace
from ci.wake import Wake

REPO = "alice/machines"
CONTEXT = "build-server"
BRANCHES = ["dev", *(f"b{index}" for index in range(30))]
START = 1_800_000_000_000
GOOD, FAILED, ERROR = BuildState.SUCCEEDED, BuildState.FAILED, BuildState.ERROR
WEB = Target("checks.web-test", FAILED, 1.0, "expected 200, got 500")
UP = {"one": "", "two": ""}
DOWN = {"one": "is down", "two": "is down"}


@dataclass
class Town:
    """A history, the addresses `one` and `two`, and clocks that are set by hand."""

    database: Database
    now: int = START
    answers: dict[str, str] = field(default_factory=lambda: dict(UP))
    letters: dict[str, list[Message]] = field(
        default_factory=lambda: {"one": [], "two": []}
    )
    tries: int = 0
    checks: list[Check] = field(default_factory=list)
    occasions: Sequence[str] = ("broken", "fixed", "trouble")
    addresses: str | None = "one two"
    builds: list[int] = field(default_factory=list)
    examined: bool = False

    def __post_init__(self) -> None:
        self.notifier = self.restarted()

    def restarted(self) -> Notifier:
        self.notifier = Notifier(
            self.database,
            config.parse(
                {
                    "notify": {"on": list(self.occasions), "trouble_after": "5m"},
                    "repository": [{"name": REPO, "branches": BRANCHES}],
                }
            ),
            lambda: self.addresses,
            Wake(),
            send=self.send,
            pace=Pace(first_retry=1.0),
            clock=lambda: self.now,
            monotonic=lambda: (self.now - START) / 1000,
        )
        if self.examined:
            self.notifier.examines(self.examine)
        return self.notifier

    async def examine(self) -> Sequence[Check]:
        return self.checks

    async def send(
        self, addresses: str, message: Message, *, reached: Sequence[str]
    ) -> Sequence[Delivery]:
        self.tries += 1
        if not addresses:
            raise HostFault("Apprise understands none of the addresses")
        for name, error in self.answers.items():
            if not error and name not in reached:
                self.letters[name].append(message)
        return [
            Delivery("JSON", name, "" if name in reached else error)
            for name, error in self.answers.items()
        ]

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.letters["one"]]

    @property
    def words(self) -> list[str]:
        """`broken` or `fixed` of each message about the branch dev."""
        return [title.split(" is ")[1].partition(":")[0] for title in self.titles]

    async def steps(self, hours: float = 0.0) -> None:
        """Let the notifier do all that is due, and all that becomes due meanwhile."""
        until = self.now + round(hours * HOUR_MS)
        while True:
            wait = await self.notifier.step()
            if wait > 0 and self.now >= until:
                return
            self.now = min(until, self.now + round(wait * 1000) + 1)

    async def push(self, count: int = 1, branch: str = "dev") -> list[int]:
        repository = await self.database.write(repositories.identify, REPO)
        shas = [f"{len(self.builds) + index + 1:040x}" for index in range(count)]
        numbers = await self.database.write(
            queue.enqueue,
            repository,
            branch,
            [Commit(sha, "Serve pages", "alice") for sha in shas],
            cause=Cause.PUSH,
            head=shas[-1],
            at=self.now,
            context=CONTEXT,
        )
        self.builds += numbers
        return list(numbers)

    async def end(self, number: int, state: BuildState, *targets: Target) -> None:
        await self.database.write(states.become, number, BuildState.RUNNING)
        await self.database.write(
            states.finish,
            number,
            state,
            summary="a summary",
            targets=targets or ((WEB,) if state is FAILED else ()),
            at=self.now,
            seconds=1.0,
            context=CONTEXT,
        )

    async def pushed(self, *ends: BuildState, branch: str = "dev") -> None:
        """Push commits one by one; each is built, and the notifier looks."""
        for state in ends:
            (number,) = await self.push(branch=branch)
            await self.end(number, state)
            await self.steps()

    async def again(self, number: int) -> None:
        await self.database.write(states.reopen, number, at=self.now, context=CONTEXT)
        await self.steps()


@asynccontextmanager
async def town_in(folder: Path, *, examined: bool = False) -> AsyncIterator[Town]:
    database = await Database.open(folder / "history.db")
    try:
        yield Town(database, examined=examined)
    finally:
        await database.close()


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with town_in(tmp_path) as made:
        yield made


@pytest.fixture
async def examined(tmp_path: Path) -> AsyncIterator[Town]:
    """A town whose notifier looks at the service itself, too."""
    async with town_in(tmp_path, examined=True) as made:
        yield made


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ([GOOD, GOOD], []),
        ([FAILED], ["broken"]),
        ([GOOD, FAILED, FAILED], ["broken"]),
        ([FAILED, GOOD, GOOD, FAILED], ["broken", "fixed", "broken"]),
        ([ERROR, BuildState.CANCELLED], []),
        ([FAILED, ERROR, BuildState.CANCELLED, FAILED], ["broken"]),
        ([FAILED, ERROR, GOOD], ["broken", "fixed"]),
    ],
)
async def test_a_change_of_the_branch_is_told_once(
    town: Town, ends: list[BuildState], words: list[str]
) -> None:
    await town.pushed(*ends)
    assert town.words == words
    town.restarted()
    await town.steps(hours=2)
    assert town.words == words
    assert town.letters["one"] == town.letters["two"]


async def test_what_an_older_commit_comes_to_is_no_news(town: Town) -> None:
    old, new = await town.push(2)
    await town.end(new, GOOD)
    await town.steps()
    await town.end(old, FAILED)
    await town.steps()
    assert town.words == []


async def test_while_it_is_built_again_a_branch_stays_what_it_was(town: Town) -> None:
    await town.pushed(GOOD, FAILED)
    await town.again(town.builds[-1])
    await town.end(town.builds[-1], ERROR)
    await town.steps()
    assert town.words == ["broken"]
    await town.again(town.builds[-1])
    await town.end(town.builds[-1], GOOD)
    await town.steps()
    assert town.words == ["broken", "fixed"]


async def test_a_message_says_what_broke_whose_it_is_and_where_to_look(
    town: Town,
) -> None:
    await town.pushed(GOOD)
    old, new = await town.push(2)
    await town.end(new, FAILED)
    await town.end(old, FAILED)
    await town.steps()
    (message,) = town.letters["one"]
    assert message.title == "✗ dev of alice/machines is broken: checks.web-test"
    assert message.kind == "failure"
    assert message.body.splitlines() == [
        "checks.web-test: expected 200, got 500",
        "commit 0000000 “Serve pages” by alice",
        "broken since 2027-01-15 08:00 UTC by commit 0000000 “Serve pages” by alice",
        "http://build-server:8000/builds/3",
    ]
    town.now += 3_720_000
    await town.pushed(GOOD)
    message = town.letters["one"][-1]
    assert message.title == "✓ dev of alice/machines is fixed"
    assert message.kind == "success"
    assert "it was broken for 1h 2m, since 2027-01-15 08:00 UTC" in message.body


async def test_hostile_words_are_only_words(town: Town) -> None:
    (number,) = await town.push()
    evil = "\x1b[2Jx\u202e\r\n<script>" + "long " * 200
    await town.end(number, FAILED, Target(evil, FAILED, 1.0, evil))
    await town.steps()
    (message,) = town.letters["one"]
    assert message.title.isprintable()
    assert len(message.title) <= 120
    assert all(line.isprintable() for line in message.body.splitlines())
    assert len(message.body) < 1000


async def test_what_nobody_could_be_told_in_time_is_not_told_at_all(
    town: Town,
) -> None:
    town.answers = dict(DOWN)
    await town.pushed(FAILED)
    await town.steps(hours=1)
    assert 5 < town.tries < 50
    town.answers = dict(UP)
    town.now += HOUR_MS
    (number,) = await town.push()
    await town.end(number, GOOD)
    await town.steps(hours=3)
    assert town.titles == []


async def test_what_could_not_be_sent_is_sent_later_and_once(town: Town) -> None:
    town.answers = dict(DOWN)
    await town.pushed(FAILED)
    await town.steps(hours=48)
    (check,) = town.notifier.checks()
    assert (check.ok, check.detail) == (
        False,
        "1 message wait for 2d 0h: JSON: is down; JSON: is down",
    )
    town.restarted()
    town.answers = dict(UP)
    await town.steps(hours=2)
    assert town.words == ["broken"]
    assert [check.ok for check in town.notifier.checks()] == [True]
    await town.pushed(GOOD)
    assert town.words == ["broken", "fixed"]


async def test_an_address_that_has_a_message_does_not_get_it_again(town: Town) -> None:
    town.answers = {"one": "", "two": "is down"}
    await town.pushed(FAILED)
    await town.steps(hours=5)
    assert town.words == ["broken"]
    # What follows is not held up by the one that is down.
    await town.pushed(GOOD)
    assert town.words == ["broken", "fixed"]
    assert town.letters["two"] == []
    town.answers = dict(UP)
    await town.steps(hours=2)
    assert town.words == ["broken", "fixed"]
    assert [message.title for message in town.letters["two"]] == [
        "✓ dev of alice/machines is fixed"
    ]


async def test_who_has_a_message_is_remembered_while_apprise_itself_fails(
    town: Town,
) -> None:
    town.answers = {"one": "", "two": "is down"}
    await town.pushed(FAILED)
    town.addresses, town.answers = "", dict(UP)
    await town.steps(hours=1)
    assert town.tries > 5
    town.restarted()
    town.addresses = "one two"
    await town.steps(hours=2)
    assert town.words == ["broken"]
    assert len(town.letters["two"]) == 1


async def test_after_a_week_a_message_is_given_up(town: Town) -> None:
    town.answers = dict(DOWN)
    await town.pushed(FAILED)
    await town.steps(hours=24 * 7 + 2)
    assert await town.database.read(notices.next_due_at) is None
    tries = town.tries
    await town.steps(hours=24)
    assert town.tries == tries


async def test_a_try_that_was_cut_off_is_made_again(town: Town) -> None:
    async def dies(*_arguments: object, **_keywords: object) -> Sequence[Delivery]:
        raise asyncio.CancelledError

    town.notifier = Notifier(
        town.database,
        config.parse({"repository": [{"name": REPO}]}),
        lambda: "one",
        Wake(),
        send=dies,
        clock=lambda: town.now,
    )
    (number,) = await town.push()
    await town.end(number, FAILED)
    with pytest.raises(asyncio.CancelledError):
        await town.notifier.step()
    # It may have arrived: the opposite is told, whatever became of it.
    town.restarted()
    await town.pushed(GOOD)
    assert town.words == ["fixed"]
    await town.pushed(FAILED)
    assert town.words == ["fixed", "broken"]


@pytest.mark.parametrize(
    ("occasions", "words"),
    [(["broken"], ["broken", "broken"]), (["fixed"], ["fixed"]), ([], [])],
)
async def test_only_what_is_wished_is_told(
    examined: Town, occasions: list[str], words: list[str]
) -> None:
    examined.occasions = occasions
    examined.restarted()
    examined.checks = [Check("disk", False, "full")]
    await examined.pushed(FAILED, GOOD, FAILED)
    await examined.steps(hours=1)
    assert examined.words == words


async def test_nobody_is_told_before_there_are_addresses(town: Town) -> None:
    town.addresses = None
    await town.pushed(FAILED)
    assert town.notifier.checks() == []
    assert town.tries == 0
    town.addresses = ""
    town.notifier.addresses_changed()
    await town.steps()
    (check,) = town.notifier.checks()
    assert check.detail.endswith("Apprise understands none of the addresses")
    town.addresses = "one two"
    town.notifier.addresses_changed()
    await town.steps()
    assert town.words == ["broken"]


async def test_addresses_that_change_during_a_look_are_the_ones_that_are_tried(
    town: Town,
) -> None:
    """Else the old ones fail once more, and the new ones wait as if they had."""
    (number,) = await town.push()
    await town.end(number, FAILED)
    town.addresses = ""

    async def examine() -> Sequence[Check]:
        town.addresses = "one two"
        town.notifier.addresses_changed()
        return []

    town.notifier.examines(examine)
    await town.notifier.step()
    assert (town.tries, town.words) == (1, ["broken"])


DISK = Check("disk", False, "3 MiB are left", "make room")


async def test_trouble_that_lasts_is_told_once_and_so_is_its_end(
    examined: Town,
) -> None:
    examined.checks = [DISK, Check("outbox", True, "fine"), Check("notify", False, "x")]
    await examined.steps(hours=0.05)
    assert examined.titles == []
    await examined.steps(hours=0.1)
    examined.restarted()
    await examined.steps(hours=3)
    (message,) = examined.letters["one"]
    assert message.title == "! build-server on build-server is in trouble: disk"
    assert message.body.splitlines() == [
        "3 MiB are left",
        "What helps: make room",
        "http://build-server:8000/setup",
    ]
    examined.checks = []
    await examined.steps(hours=0.05)
    examined.checks = [DISK]
    await examined.steps(hours=3)
    assert len(examined.titles) == 1
    examined.checks = [Check("disk", True, "3 GiB are left")]
    await examined.steps(hours=3)
    assert examined.titles[1:] == ["✓ build-server on build-server is well again: disk"]


async def test_trouble_that_passes_is_not_told(examined: Town) -> None:
    for _ in range(10):
        examined.checks = [DISK]
        await examined.steps(hours=0.06)
        examined.checks = []
        await examined.steps(hours=0.03)
    assert examined.titles == []


async def test_twenty_an_hour_and_the_rest_in_one(town: Town) -> None:
    for branch in BRANCHES:
        (number,) = await town.push(branch=branch)
        await town.end(number, FAILED)
    await town.steps(hours=0.9)
    assert len(town.titles) == 20
    assert town.titles[19] == "12 messages of build-server on build-server"
    rest = town.letters["one"][19].body.splitlines()
    told = {*town.titles[:19], *rest}
    assert told >= {f"✗ {b} of {REPO} is broken: checks.web-test" for b in BRANCHES}
    for branch in BRANCHES[:3]:
        (number,) = await town.push(branch=branch)
        await town.end(number, GOOD)
    await town.steps()
    assert len(town.titles) == 20
    await town.steps(hours=0.3)
    assert [title.split(" is ")[1] for title in town.titles[20:]] == ["fixed"] * 3


EVENTS = st.lists(
    st.sampled_from(
        ["good", "failed", "error", "again", "up", "down", "half", "restart"]
    ),
    max_size=25,
)


@given(EVENTS)
@hypothesis_settings(max_examples=40, deadline=None)
def test_in_the_end_everybody_knows_the_truth(events: list[str]) -> None:
    asyncio.run(_lives(events))


async def _lives(events: list[str]) -> None:
    """No address is told the same twice in a row, and the last word is the truth."""
    with tempfile.TemporaryDirectory() as folder:
        async with town_in(Path(folder)) as town:
            truth = "fixed"
            for event in events:
                truth = await _happens(town, event) or truth
                await town.steps()
            town.answers = dict(UP)
            await town.steps(hours=2)
            for letters in town.letters.values():
                told = [m.title.split(" is ")[1].partition(":")[0] for m in letters]
                if told:
                    assert told[-1] == truth
                else:
                    assert truth == "fixed" or "half" in events
            one = town.words
            assert all(a != b for a, b in itertools.pairwise(one))


async def _happens(town: Town, event: str) -> str | None:
    """The new truth about the branch, if it changes."""
    ends = {"good": GOOD, "failed": FAILED, "error": ERROR}
    if event in ends:
        (number,) = await town.push()
        await town.end(number, ends[event])
        return {"good": "fixed", "failed": "broken"}.get(event)
    if event == "again" and town.builds:
        await town.again(town.builds[-1])
        await town.end(town.builds[-1], GOOD)
        return "fixed"
    if event == "restart":
        town.restarted()
    changes = {"up": UP, "down": DOWN, "half": {"one": "", "two": "is down"}}
    town.answers = dict(changes.get(event, town.answers))
    return None
