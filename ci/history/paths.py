"""Where things lie below the state directory. Names are numbers, never free text."""

from __future__ import annotations

from pathlib import Path

# No branch can have this name.
NO_BRANCH = "-"


def database_path(state_dir: Path) -> Path:
    return state_dir / "history.db"


def log_path(state_dir: Path, build: int, attempt: int) -> Path:
    """The log of one attempt; a thousand builds share a folder."""
    return state_dir / "logs" / str(build // 1000) / str(build) / f"{attempt}.log"


def highest_log(state_dir: Path) -> int:
    """The highest build number that has a log here, 0 when none has."""
    for folder in _by_number(state_dir / "logs"):
        for build in _by_number(folder):
            return int(build.name)
    return 0


def _by_number(folder: Path) -> list[Path]:
    """The numbered entries of a folder, the highest first."""
    if not folder.is_dir():
        return []
    found = [entry for entry in folder.iterdir() if entry.name.isdigit()]
    return sorted(found, key=lambda entry: int(entry.name), reverse=True)


def ballast_path(state_dir: Path) -> Path:
    """What is given up when the disk is full."""
    return state_dir / "ballast"


def backup_path(state_dir: Path) -> Path:
    """The daily copy of the database; the one before it has `.1` behind its name."""
    return state_dir / "backup" / "history.db"


def mirror_path(state_dir: Path, repository_id: int) -> Path:
    return state_dir / "mirrors" / f"{repository_id}.git"


def cache_path(state_dir: Path, repository_id: int) -> Path:
    """Nix's own cache for one repository: it clones the mirror into it."""
    return state_dir / "cache" / str(repository_id)


def checkout_path(state_dir: Path, build: int) -> Path:
    """The writable tree of a `command` build, removed at its end."""
    return state_dir / "checkouts" / str(build)


def update_path(state_dir: Path, repository_id: int) -> Path:
    """What Nix makes while a repository's inputs are updated, removed at its end."""
    return state_dir / "checkouts" / f"update-{repository_id}"


def root_path(
    state_dir: Path, repository_id: int, branch: str | None, target: str, build: int
) -> Path:
    """The folder of links that keep a green result from the garbage collector.

    Branch and target are free text: they are spelled in hex, so that no name can
    leave the folder or clash with another. Builds that were asked for by SHA are on no
    branch, but deserve roots, too.
    """
    folder = state_dir / "roots" / str(repository_id)
    spelled = (branch or NO_BRANCH).encode().hex()
    return folder / spelled / target.encode().hex() / str(build)
