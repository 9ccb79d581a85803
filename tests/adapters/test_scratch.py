"""Directories that a hostile command filled: emptied, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.adapters.scratch import emptied, removed
from tests.adapters.test_cells import NOBODY, system_python
from tests.fakes.tree import CHECKOUT

# Deeper than Python recurses, longer than a path may be, closed, with odd names.
MESS = """
import os, sys
os.chdir(sys.argv[1])
os.makedirs("closed/inner")
for name in ("closed/inner/file", "new\\nline", "-rf"):
    open(name, "w").close()
for name in ("link", "closed/link"):
    os.symlink(sys.argv[2], name)
os.mkfifo("pipe")
os.chmod("closed/inner", 0)
os.chmod("closed", 0)
for _ in range(1500):
    os.mkdir("deeper")
    os.chdir("deeper")
"""


def fill(path: Path, outside: Path) -> None:
    path.mkdir(parents=True)
    subprocess.run([sys.executable, "-c", MESS, path, outside], check=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, as some disks take milliseconds for each directory; open to all."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


async def test_whatever_is_there_goes_and_links_lead_nowhere(folder: Path) -> None:
    kept = folder / "kept"
    kept.mkdir()
    (kept / "file").write_text("ours")
    place = folder / "checkouts/7"
    fill(place, kept)
    await emptied(place)
    assert list(place.iterdir()) == []
    assert place.stat().st_mode & 0o777 == 0o700
    assert (kept / "file").read_text() == "ours"
    assert kept.stat().st_mode & 0o777 == 0o755
    place.rmdir()
    place.symlink_to(kept)
    await removed(place)
    assert (kept / "file").exists()
    assert not place.is_symlink()
    await removed(place)


def test_what_is_closed_to_its_owner_too(folder: Path) -> None:
    """Root minds no mode; a service with a user of its own does."""
    if os.geteuid() != 0:
        pytest.skip("only root can try it as another user")
    place, kept = folder / "checkouts/7", folder / "kept"
    kept.mkdir(0o500)
    fill(place, kept)
    subprocess.run(["chown", "-R", "--no-dereference", "65534", folder], check=True)
    script = (
        "import asyncio, sys; from pathlib import Path; "
        "from ci.adapters.scratch import removed; asyncio.run(removed(Path(sys.argv[1])))"
    )
    # The checkout may lie where nobody else may look.
    code = shutil.copytree(CHECKOUT / "ci", folder / "code/ci").parent
    argv = [*NOBODY, system_python(), "-B", "-c", script, str(place)]
    done = subprocess.run(argv, cwd=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not place.exists()
    assert kept.stat().st_mode & 0o777 == 0o500
