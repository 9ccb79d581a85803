"""Who came, by what: in memory, for whoever sets the server up."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MOST = 20


@dataclass(frozen=True)
class Machine:
    """Who asked last at `at` (ms): an address, or the login that Tailscale tells."""

    name: str
    client: str
    at: int


class Seen:
    """The machines that came last, at most MOST of them."""

    def __init__(self) -> None:
        self._machines: OrderedDict[str, Machine] = OrderedDict()

    def note(self, name: str, client: str, at: int) -> bool:
        """It asked with version `client`, at `at` (ms); tell whether it is a new one."""
        new = self._machines.pop(name, None) is None
        self._machines[name] = Machine(name, client, at)
        if len(self._machines) > MOST:
            self._machines.popitem(last=False)
        return new

    def machines(self) -> list[Machine]:
        """Newest first."""
        return list(reversed(self._machines.values()))


@dataclass
class Said:
    """What GitHub answered when it was asked for a ping; `at` (ms) 0: never asked."""

    at: int = 0
    sentence: str = ""


@dataclass
class Opened:
    """When a build's page was last opened by a link on github.com, in ms; 0: never yet."""

    at: int = 0

    def note(self, at: int) -> bool:
        """It was at `at` (ms); tell whether that was the first time."""
        first, self.at = not self.at, at
        return first
