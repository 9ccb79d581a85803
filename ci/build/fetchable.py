"""Green means fetchable: asking the binary cache before the tick is posted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from ci.errors import HostFault
from ci.models import BuildState, Target

PATIENCE = 30.0
AGAIN = 2.0


@dataclass(frozen=True)
class FetchCheck:
    """Asks until every output can be fetched, for `patience` seconds at most.

    `ask` maps store paths to None (a client can fetch it) or to why not. A cache that
    stays silent delays a green tick and is mentioned; with `required` it is our fault.
    """

    ask: Callable[[Sequence[str]], Awaitable[Mapping[str, str | None]]]
    required: bool
    patience: float = PATIENCE

    async def __call__(self, targets: Sequence[Target]) -> str:
        """A few words for the summary. Raises HostFault when required and not fetchable."""
        built = [t for t in targets if t.state is BuildState.SUCCEEDED]
        paths = [path for t in built for path in (t.outputs or {}).values()]
        if not paths:
            return ""
        reasons = [f"the cache did not answer in {self.patience:g}s"]
        try:
            async with asyncio.timeout(self.patience):
                while reasons := await self._reasons(paths):  # noqa: ASYNC110 — no bell
                    await asyncio.sleep(AGAIN)
        except TimeoutError:
            pass
        if not reasons:
            return "fetchable"
        if self.required:
            raise HostFault(f"built, but not fetchable: {reasons[0]}")
        return f"not fetchable yet: {reasons[0]}"

    async def _reasons(self, paths: Sequence[str]) -> list[str]:
        found = await self.ask(paths)
        return [reason for reason in found.values() if reason is not None]
