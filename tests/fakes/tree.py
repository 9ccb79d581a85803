"""The files of this checkout as the house rules see them, with or without git."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NOT_OURS = {
    ".git",
    ".venv",
    ".cache",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".hypothesis",
    "__pycache__",
    "dist",
    "node_modules",
}


def files() -> Iterator[Path]:
    """Every file that is part of the project, relative to the checkout."""
    for directory, names, found in os.walk(CHECKOUT):
        names[:] = [name for name in names if name not in NOT_OURS]
        for name in found:
            path = Path(directory, name)
            if not path.is_symlink() and not name.endswith((".pyc", ".swp")):
                yield path.relative_to(CHECKOUT)


def texts() -> Iterator[tuple[Path, str]]:
    """Every project file that is text, with its content."""
    for path in files():
        try:
            yield path, (CHECKOUT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def python(*tops: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file below the given top folders, parsed."""
    for path, text in texts():
        if path.suffix == ".py" and path.parts[0] in tops:
            yield path, ast.parse(text, str(path))


def module_name(path: Path) -> str:
    """`ci/history/__init__.py` -> `ci.history`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module) -> Iterator[str]:
    """Every name that is imported anywhere in the file, `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from (f"{origin}.{alias.name}" for alias in node.names)
