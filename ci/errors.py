"""Every exception this system raises on purpose, sorted by whose fault it is.

BuildServerError
├── ConfigurationError      the person who wrote the configuration
├── HistoryError            the database or the state directory
│   ├── HistoryTooNew       written by a newer build-server
│   ├── HistoryCorrupt      SQLite says so
│   ├── InstanceRunning     another server holds the state directory
│   └── ForbiddenTransition a state change that models.TRANSITIONS does not allow
├── RequestError            the caller of our HTTP interface (carries the status)
├── CommitFault             the commit's own fault: the only way to `failed`
├── HostFault               ours: the only way to `error`, retried first
│   ├── NetworkDown         the network let us down: costs no attempt
│   │   └── RemoteDown      so that the commit could not even be fetched
│   ├── RemoteRefused       git's server does not take our credential: costs no attempt
│   ├── RemoteBehind        it does not show yet what it told of: costs no attempt
│   ├── DiskFull            no room in the state directory or the store
│   ├── DaemonLost          the Nix daemon went away
│   │   └── DaemonDown      it was not there to begin with: costs no attempt
│   └── HostLimit           memory, processes or another limit of this host
├── CommitVanished          the remote no longer has the commit: `skipped`
├── BuildCancelled          somebody asked for it
├── BuildInterrupted        this server stops: back to the queue, free of charge
└── GitHubError             what GitHub answered, or did not
    ├── GitHubUnavailable   no usable answer: try again
    ├── GitHubBusy          a rate limit: nobody may ask again before `until`
    ├── CredentialRejected  401: ask nothing until the credential changes
    └── GitHubRefused       a final no to this one request
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class BuildServerError(Exception):
    """Root of every error raised on purpose; `str()` is a sentence for a person."""


class ConfigurationError(BuildServerError):
    """The configuration cannot be used; `problems` holds one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class HistoryError(BuildServerError):
    """The database or the state directory cannot be used as it is."""


class HistoryTooNew(HistoryError):
    """The database was written by a newer build-server."""


class HistoryCorrupt(HistoryError):
    """SQLite finds the database damaged."""


class InstanceRunning(HistoryError):
    """Another server holds this state directory; `holder` says who."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"this state directory is in use by {holder}; stop it first")


class ForbiddenTransition(HistoryError):
    """A state change that the table in models.py does not allow."""


class RequestError(BuildServerError):
    """What a caller asked cannot be done; `status` is the HTTP status."""

    def __init__(
        self, status: int, message: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        self.status = status
        self.message = message
        self.detail = dict(detail or {})
        super().__init__(message)


class CommitFault(BuildServerError):
    """Positive evidence that the commit itself is at fault; `str()` is its first error line."""


class HostFault(BuildServerError):
    """Something of ours broke; `counted` says whether it costs one of three attempts."""

    counted = True


class NetworkDown(HostFault):
    """A remote could not be reached; waiting for the network costs no attempt."""

    counted = False


class RemoteDown(NetworkDown):
    """The repository's own remote gives us nothing: no new commit of it can be built."""


class RemoteRefused(HostFault):
    """A remote does not take our credential; waiting for another costs no attempt."""

    counted = False


class RemoteBehind(HostFault):
    """A remote has told of a commit that it does not show yet; waiting is free."""

    counted = False


class DiskFull(HostFault):
    """No room left in the state directory or the store."""


class DaemonLost(HostFault):
    """The Nix daemon closed the connection, or stopped answering."""


class DaemonDown(DaemonLost):
    """No Nix daemon answered when one was called: nothing was tried yet."""

    counted = False


class HostLimit(HostFault):
    """A limit of this host (memory, processes, log of the service) ended the work."""


class CommitVanished(BuildServerError):
    """The remote no longer has this commit."""


class BuildCancelled(BuildServerError):
    """Somebody asked for the build to end; `str()` says who and why."""


class BuildInterrupted(BuildServerError):
    """This server is stopping: the build goes back to the queue, free of charge."""


class GitHubError(BuildServerError):
    """GitHub did not do what was asked."""


class GitHubUnavailable(GitHubError):
    """No usable answer (network, 5xx, redirect, broken JSON): try again later."""


class GitHubBusy(GitHubError):
    """A rate limit; nothing may be asked before `until` (seconds since the epoch)."""

    def __init__(self, message: str, *, until: float) -> None:
        self.until = until
        super().__init__(message)


class CredentialRejected(GitHubError):
    """401: the token is not accepted; ask nothing until it changes."""


class GitHubRefused(GitHubError):
    """GitHub said no; `permanent` tells whether asking again can ever help."""

    def __init__(self, message: str, *, status: int, permanent: bool) -> None:
        self.status = status
        self.permanent = permanent
        super().__init__(message)
