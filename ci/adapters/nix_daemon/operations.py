"""The requests made of a Nix daemon and their replies, as bytes and parsers. No I/O.

Field orders are those of Nix 2.8 (protocol 1.34) to 2.34 (1.38), from its
src/libstore/worker-protocol.cc and daemon.cc.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ci.adapters.nix_daemon.greeting import Version
from ci.adapters.nix_daemon.results import BuildResult, BuildStatus
from ci.adapters.nix_daemon.wire import (
    Inbox,
    Parse,
    ProtocolError,
    integers,
    string,
    strings,
)
from ci.adapters.telling import plain


class Operation(IntEnum):
    """Numbers of the operations used."""

    ADD_TEMP_ROOT = 11
    ADD_INDIRECT_ROOT = 12
    SET_OPTIONS = 19
    QUERY_PATH_INFO = 26
    QUERY_VALID_PATHS = 31
    QUERY_MISSING = 40
    BUILD_PATHS_WITH_RESULTS = 46


@dataclass(frozen=True)
class Missing:
    """What a request would do: .drv paths, outputs, unknown paths; sizes in bytes."""

    will_build: tuple[str, ...]
    will_substitute: tuple[str, ...]
    unknown: tuple[str, ...]
    download_size: int
    nar_size: int


@dataclass(frozen=True)
class PathInfo:
    """One valid store path; `nar_hash` is SHA-256 in hexadecimal, time in seconds."""

    path: str
    deriver: str | None
    nar_hash: str
    references: tuple[str, ...]
    registered_at: int
    nar_size: int
    ultimate: bool
    signatures: tuple[str, ...]
    content_address: str | None


def set_options(
    *, keep_going: bool, timeout: int, silent: int, cores: int, jobs: int
) -> bytes:
    """Times in whole seconds, 0 for no limit; `cores` 0 for all."""
    information, build_log_on, hook = 3, 0, True
    return integers(
        Operation.SET_OPTIONS,
        False,  # keepFailed
        keep_going,
        True,  # tryFallback: a cache that cannot deliver is no failure
        information,
        jobs,
        silent,
        hook,  # remote builders
        build_log_on,
        0,  # logType, ignored
        0,  # printBuildTrace, ignored
        cores,
        True,  # useSubstitutes
        1,
    ) + b"".join((string("timeout"), string(str(timeout))))


def query_missing(derivations: Sequence[str]) -> bytes:
    return integers(Operation.QUERY_MISSING) + _all_outputs(derivations)


def query_valid(paths: Sequence[str]) -> bytes:
    """Without asking caches for those that are missing."""
    return integers(Operation.QUERY_VALID_PATHS) + strings(paths) + integers(False)


def build(derivations: Sequence[str]) -> bytes:
    normal = 0
    wanted = _all_outputs(derivations)
    return integers(Operation.BUILD_PATHS_WITH_RESULTS) + wanted + integers(normal)


def about_path(operation: int, path: str) -> bytes:
    """Any operation whose only argument is a path."""
    return integers(operation) + string(path)


def _all_outputs(derivations: Sequence[str]) -> bytes:
    return strings(f"{path}!*" for path in derivations)


def read_nothing(inbox: Inbox) -> Parse[None]:
    """The reply of an operation that has none."""
    yield from ()


def read_flag(inbox: Inbox) -> Parse[bool]:
    return (yield from inbox.u64()) != 0


def read_paths(inbox: Inbox) -> Parse[list[str]]:
    return (yield from inbox.texts())


def read_missing(inbox: Inbox) -> Parse[Missing]:
    will_build = yield from inbox.texts()
    will_substitute = yield from inbox.texts()
    unknown = yield from inbox.texts()
    download_size = yield from inbox.u64()
    nar_size = yield from inbox.u64()
    return Missing(
        tuple(will_build),
        tuple(will_substitute),
        tuple(unknown),
        download_size,
        nar_size,
    )


def read_path_info(inbox: Inbox, path: str) -> Parse[PathInfo | None]:
    """None when the path is not valid."""
    if not (yield from inbox.u64()):
        return None
    deriver = yield from inbox.text()
    nar_hash = yield from inbox.text()
    references = yield from inbox.texts()
    registered_at = yield from inbox.u64()
    nar_size = yield from inbox.u64()
    ultimate = yield from inbox.u64()
    signatures = yield from inbox.texts()
    content_address = yield from inbox.text()
    return PathInfo(
        path,
        deriver or None,
        nar_hash,
        tuple(references),
        registered_at,
        nar_size,
        ultimate != 0,
        tuple(signatures),
        content_address or None,
    )


def read_results(inbox: Inbox, version: Version) -> Parse[dict[str, BuildResult]]:
    """Results keyed by .drv path: 2.34 answers in request order with duplicates, 2.8
    sorted and merged."""
    results = {}
    for _ in range((yield from inbox.count())):
        path, _, _ = (yield from inbox.text()).partition("!")
        results[path] = yield from _result(inbox, path, version)
    return results


def _result(inbox: Inbox, path: str, version: tuple[int, int]) -> Parse[BuildResult]:
    number = yield from inbox.u64()
    error = plain((yield from inbox.text()))
    # times built, non-deterministic, start, stop: 2.34 leaves them 0.
    for _ in range(3):
        yield from inbox.u64()
    stopped_at = yield from inbox.u64()
    if version >= (1, 37):
        yield from _skip_optional(inbox)  # CPU time, user
        yield from _skip_optional(inbox)  # and system
    store_dir = path.rpartition("/")[0]
    outputs = {}
    for _ in range((yield from inbox.count())):
        identity = yield from inbox.text()
        realisation = yield from inbox.text()
        name = identity.rpartition("!")[2]
        outputs[name] = f"{store_dir}/{_out_path(realisation)}"
    status, error = _known(number, error)
    return BuildResult(path, status, error, outputs, stopped_at)


def _skip_optional(inbox: Inbox) -> Parse[None]:
    if (yield from inbox.u64()):
        yield from inbox.u64()


def _known(number: int, error: str) -> tuple[BuildStatus, str]:
    try:
        return BuildStatus(number), error
    except ValueError:
        return BuildStatus.UNKNOWN, f"unknown Nix status {number}: {error}"


def _out_path(realisation: str) -> str:
    try:
        path = json.loads(realisation)["outPath"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ProtocolError(
            f"the Nix daemon described an output as {realisation[:200]!r}, where JSON "
            "with an outPath was expected"
        ) from error
    return str(path)
