"""When derivations ended and which waited for which: what only the results tell.

Nix 2.8 says that a derivation which was asked for has ended only when the whole request
ends. Its results have the second in which each builder ended, and its counts told the
moments at which one did: together they tell the moment before which each has ended, and
not much more than a second before which it had not.
"""

from __future__ import annotations

import asyncio
import bisect
import logging
from collections.abc import Collection, Mapping, Sequence

from ci.adapters.nix_daemon import BuildResult, Daemon
from ci.build.job import Progress
from ci.errors import HostFault

log = logging.getLogger(__name__)

SECOND = 1000
# Milliseconds by which a count may come after the second in the result: its outputs are
# looked at in between.
LATE = 250
# Derivations that are asked about, and seconds that it may take. More than that no picture
# shows, and a build is not kept waiting for one.
MOST = 2000
PATIENCE = 5.0


def place_ends(
    progress: Progress, results: Mapping[str, BuildResult], moments: Sequence[int]
) -> dict[str, float]:
    """Put right the ends that were told too late; returns their seconds, by path.

    These are all those that have a second in their result. `moments`, in milliseconds and
    in order, are those at which some builder ended.
    """
    corrected = {}
    for (path, machine), (begun, told) in list(progress.derivations.items()):
        result = results.get(path)
        if result is None or not result.stopped_at or told is None:
            continue
        first = result.stopped_at * SECOND
        last = first + SECOND + LATE
        index = bisect.bisect_right(moments, last)
        if index and moments[index - 1] >= first:
            last = moments[index - 1]
        ended = max(begun, min(last, told))
        progress.derivations[path, machine] = (begun, ended)
        corrected[path] = (ended - begun) / SECOND
    return corrected


async def find_needs(
    daemon: Daemon, progress: Progress, corrected: Collection[str]
) -> None:
    """Note which of the derivations that were built here refer to which other.

    Those whose end was `corrected` have then ended, at the latest, when one that needs
    them began. For people to see: when the daemon does not say, nothing is noted.
    """
    built = list(dict.fromkeys(path for path, _ in progress.derivations))[:MOST]
    if len(built) < 2:
        return
    try:
        async with asyncio.timeout(PATIENCE):
            needs = {path: await _references(daemon, path) for path in built}
    except (HostFault, TimeoutError) as error:
        log.warning("which derivation waited for which is not known: %s", error)
        return
    known = set(built)
    progress.needs = {
        path: sorted(known.intersection(references) - {path})
        for path, references in needs.items()
    }
    _bound(progress, corrected)


async def _references(daemon: Daemon, path: str) -> Sequence[str]:
    info = await daemon.query_path_info(path)
    return info.references if info else ()


def _bound(progress: Progress, corrected: Collection[str]) -> None:
    began: dict[str, int] = {}
    for (path, _), (begun, _) in progress.derivations.items():
        for needed in progress.needs.get(path, ()):
            began[needed] = min(begun, began.get(needed, begun))
    for (path, machine), (begun, ended) in list(progress.derivations.items()):
        if path in corrected and ended is not None:
            latest = max(begun, min(ended, began.get(path, ended)))
            progress.derivations[path, machine] = (begun, latest)
