"""What is done to a mirror's files without git, and to files that git hands out."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci.adapters.git.command import NO_SPACE, sentence
from ci.adapters.process import Finished, run
from ci.adapters.process.table import command_lines
from ci.errors import DiskFull, HostFault

# A commit must not choose what a build sees of it: `git archive` would leave out files
# and rewrite others where .gitattributes says so. This file has the last word.
ATTRIBUTES = "* -export-ignore -export-subst\n"
# Not as root's `tar` does by itself: owners and modes of the archive mean nothing here,
# and all files are as old as the checkout, which is what `make` expects.
TAR = ("tar", "--extract", "--no-same-owner", "--no-same-permissions", "--touch")
# How `tar` puts it when a part of a file still found room.
SHORT_WRITE = re.compile(r"Wrote only \d+ of \d+ bytes")
LEFTOVERS = (
    "*.lock",
    "gc.pid",
    "refs/**/*.lock",
    "objects/info/**/*.lock",
    "objects/pack/tmp_*",
    "objects/pack/.tmp-*",
)


def make_room(path: Path) -> None:
    """Make the directory of a mirror, for its owner only, with our attributes."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    attributes = path / "info/attributes"
    attributes.parent.mkdir(exist_ok=True)
    attributes.write_text(ATTRIBUTES)


def sweep(path: Path) -> None:
    """Remove what a git that was killed left behind, unless one is at work here."""
    if any(_writes_to(path, argv) for argv in command_lines()):
        return
    for pattern in LEFTOVERS:
        for leftover in path.glob(pattern):
            leftover.unlink()


def _writes_to(path: Path, argv: Sequence[bytes]) -> bool:
    program = os.path.basename(argv[0])
    reads = b"upload-pack" in argv or program == b"git-upload-pack"
    named = any(os.fsencode(path) in argument for argument in argv[1:])
    return program.startswith(b"git") and named and not reads


def discard(path: Path) -> None:
    """Remove a mirror, out of everybody's sight first."""
    grave = path.with_name(f"{path.name}.damaged")
    shutil.rmtree(grave, ignore_errors=True)
    if path.exists():
        path.rename(grave)
        shutil.rmtree(grave)


async def unpack(
    archive: Sequence[str], into: Path, *, env: Mapping[str, str], seconds: float
) -> Finished:
    """Extract what the program `archive` writes into a directory, made when absent.

    Returns how that program ended. Raises DiskFull or HostFault when its files cannot be
    written, TimeoutError after `seconds`.
    """
    await asyncio.to_thread(into.mkdir, parents=True, exist_ok=True)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    # Closing twice is harmless for a file object, not for a descriptor.
    with os.fdopen(reader, "rb", 0) as source, os.fdopen(writer, "wb", 0) as sink:

        async def pack() -> Finished:
            with sink:
                return await run(archive, env=env, timeout=seconds, stdout=writer)

        async def extract() -> Finished:
            with source:
                argv = [*TAR, f"--directory={into}"]
                return await run(argv, env=env, timeout=seconds, stdin=reader)

        work = (pack(), extract())
        packed, extracted = await asyncio.gather(*work, return_exceptions=True)
    if isinstance(packed, BaseException):
        raise packed
    if isinstance(extracted, BaseException):
        raise extracted
    # An archive that was cut short by `tar` is not to blame.
    if extracted.code != 0 and packed.code in (0, -signal.SIGPIPE):
        said = extracted.stderr.decode(errors="replace")
        full = NO_SPACE.search(said) or SHORT_WRITE.search(said)
        kind = DiskFull if full else HostFault
        raise kind(f"the files cannot be written to {into}: {sentence(said)}")
    return packed
