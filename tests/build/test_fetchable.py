"""Green means fetchable: what is asked of the cache, for how long, and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from ci.build.fetchable import FetchCheck
from ci.errors import HostFault
from ci.models import BuildState, Target

BUILT = Target("packages.a", BuildState.SUCCEEDED, outputs={"out": "/nix/store/a"})
ELSEWHERE = Target("packages.b", BuildState.SKIPPED, outputs={"out": "/nix/store/b"})


class Cache:
    """Has what it is told to have; remembers what it was asked."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def ask(self, paths: Sequence[str]) -> Mapping[str, str | None]:
        self.asked += paths
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return dict.fromkeys(paths, answer)


async def test_only_what_was_built_is_asked_for() -> None:
    cache = Cache(None)
    said = await FetchCheck(cache.ask, required=True)([BUILT, ELSEWHERE])
    assert said == "fetchable"
    assert cache.asked == ["/nix/store/a"]


async def test_nothing_to_fetch_is_nothing_to_say() -> None:
    cache = Cache("down")
    assert await FetchCheck(cache.ask, required=True)([ELSEWHERE]) == ""
    assert cache.asked == []


async def test_a_silent_cache_delays_and_is_mentioned_but_decides_nothing() -> None:
    check = FetchCheck(Cache("down").ask, required=False, patience=0.05)
    assert await check([BUILT]) == "not fetchable yet: down"


async def test_a_cache_that_never_answers_is_no_green() -> None:
    async def hang(_: Sequence[str]) -> Mapping[str, str | None]:
        await asyncio.Event().wait()
        return {}

    said = await FetchCheck(hang, required=False, patience=0.05)([BUILT])
    assert said == "not fetchable yet: the cache did not answer in 0.05s"


async def test_where_the_cache_is_required_its_silence_is_our_fault() -> None:
    check = FetchCheck(Cache("down").ask, required=True, patience=0.05)
    with pytest.raises(HostFault, match="built, but not fetchable: down"):
        await check([BUILT])
