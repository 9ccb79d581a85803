"""Failures on remote builders, of which the daemon's own status says only "other". No I/O.

When a derivation fails on another machine, Nix (2.8 and 2.34) answers status 9 and the
exit code of its own helper; what happened there is only said in a message. Believing that
text is safe here and nowhere else: it is read for derivations that have failed anyway, of
this one request, and a builder that forges it can only blame its own commit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from ci.adapters.nix_daemon.events import Event, LogLine, Message, Started
from ci.adapters.nix_daemon.results import BuildResult, BuildStatus
from ci.adapters.telling import plain

_REPORT = re.compile(r"build of '([^']+)' on '([^']+)' failed: (.+)", re.DOTALL)

# In this order: a rejected output follows a builder that exited well, and the text of a
# failed builder may quote its log, and so any of the others.
_MEANINGS = (
    (
        re.compile(r"(?:builder for '[^']*'|builder) failed (?:with|due to) "),
        BuildStatus.PERMANENT_FAILURE,
    ),
    (
        re.compile(
            r"hash mismatch in|failed to produce output|is not allowed to refer"
        ),
        BuildStatus.OUTPUT_REJECTED,
    ),
    (re.compile(r"timed out after \d+ seconds"), BuildStatus.TIMED_OUT),
)


class RemoteFailures:
    """Listens in on the events of one request, then puts a name to its failures."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._machines: set[tuple[str, str]] = set()
        self.reports: dict[str, str] = {}
        """What was said, by .drv path."""

    def __call__(self, event: Event) -> None:
        """Take note of the event and pass it on."""
        if not isinstance(event, LogLine):
            self._note(event)
        self._on_event(event)

    def explain(
        self,
        results: Mapping[str, BuildResult],
        fixed_output: Callable[[str], bool],
    ) -> dict[str, BuildResult]:
        """The results, with what remote builders said where the daemon does not say.

        `fixed_output` tells whether a .drv has a fixed output: then a failed builder
        counts as transient, as it does on this host.
        """
        return {
            path: self._explain(result, fixed_output)
            if result.status is BuildStatus.MISC_FAILURE and path in self.reports
            else result
            for path, result in results.items()
        }

    def _explain(
        self, result: BuildResult, fixed_output: Callable[[str], bool]
    ) -> BuildResult:
        report = self.reports[result.path]
        status = next((s for words, s in _MEANINGS if words.search(report)), None)
        if status is BuildStatus.PERMANENT_FAILURE and fixed_output(result.path):
            status = BuildStatus.TRANSIENT_FAILURE
        return replace(result, status=status or result.status, error=report)

    def _note(self, event: Event) -> None:
        match event:
            case Started(derivation, machine) if machine:
                self._machines.add((derivation, machine))
            case Message(0, text) if report := _REPORT.search(plain(text)):
                if (report[1], report[2]) in self._machines:
                    self.reports[report[1]] = report[3]


def is_fixed_output(derivation: bytes) -> bool:
    """Whether the text of a .drv names the hash of its only output.

    Outputs come first, as (name, path, hash algorithm, hash); both last are empty for
    ordinary ones, the hash alone for content-addressed ones.
    """
    return bool(re.match(rb'[^[]*\[\("out","[^"]*","[^"]+","[^"]+"\)\]', derivation))
