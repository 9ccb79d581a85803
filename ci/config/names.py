"""Names that other systems give a shape: repositories, branches, targets, keys.

Like ci/config/units.py: plain functions, ValueError with a sentence that says what to write.
"""

from __future__ import annotations

import base64
import binascii
import re

from ci.text import quoted

# GitHub: an owner has letters, digits and hyphens (managed users: one underscore),
# a repository also dots and underscores.
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/[A-Za-z0-9._-]{1,100}")

# git check-ref-format(1), rules 1 to 9; `git branch` refuses a leading hyphen too.
_NOT_IN_BRANCH = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)")

# Attribute names, quoted where Nix would quote them; `*` for any part but of the first.
_NAME = r'(?:"(?:[^"\\]|\\["\\])+"|[^."\s$\\{}#]+)'
_PATTERN = re.compile(rf"(?![^.]*\*){_NAME}(?:\.{_NAME})*")

_APP_ID = re.compile(r"[1-9][0-9]{0,19}|[A-Za-z0-9.]{4,64}")

_CONTEXT_LENGTH = 100
_PUBLIC_KEY_BYTES = 32
_SECRET_KEY_BYTES = 64


def repository_name(value: str) -> str:
    """`owner/name` as GitHub spells it."""
    repository = value.partition("/")[2]
    if (
        not _REPOSITORY.fullmatch(value)
        or repository in (".", "..")
        or repository.endswith(".git")
    ):
        raise ValueError(
            f'{quoted(value)} is not owner/name; write e.g. "NixOS/nixpkgs" '
            "(no URL, no .git)"
        )
    return value


def branch_name(value: str) -> str:
    """A branch without `refs/heads/`; patterns are not branches."""
    if "*" in value:
        raise ValueError(f"{quoted(value)} is a pattern; list each branch by its name")
    if value.startswith("refs/"):
        plain = value.removeprefix("refs/heads/")
        raise ValueError(f"{quoted(value)} is a ref; write the branch: {quoted(plain)}")
    if (
        not value
        or value == "@"
        or value.startswith(("-", "/", "."))
        or value.endswith(("/", "."))
        or _NOT_IN_BRANCH.search(value)
    ):
        raise ValueError(f'{quoted(value)} is not a branch name; write e.g. "dev"')
    return value


def target_pattern(value: str) -> str:
    """`packages.*`, `checks.web-test`, `homeConfigurations."alice@laptop.local"`."""
    if not _PATTERN.fullmatch(value) or not value.isprintable():
        raise ValueError(
            f'{quoted(value)} is not a target pattern; write e.g. "packages.*", '
            '"checks.web-test" or \'homeConfigurations."alice@host"\''
        )
    return value


def status_context(value: str) -> str:
    """The name of the commit status: one printable line."""
    if not value.strip() or not value.isprintable() or len(value) > _CONTEXT_LENGTH:
        raise ValueError(
            f"must be one line of 1 to {_CONTEXT_LENGTH} characters; "
            'write e.g. "build-server"'
        )
    return value


def app_id(value: object) -> str:
    """The number of a GitHub App, or its client id; empty: no App."""
    if value == "":
        return ""
    text = str(value) if isinstance(value, (int, str)) else ""
    if isinstance(value, bool) or not _APP_ID.fullmatch(text):
        raise ValueError(
            "must be the App's id or client id as its settings page shows it; "
            "write e.g. 123456"
        )
    return text


def public_key(value: str) -> str:
    """`NAME:BASE64` of the 32 bytes of an ed25519 key, as Nix writes it."""
    name, colon, encoded = value.partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) == _SECRET_KEY_BYTES:
        raise ValueError(
            "is a secret key; make a new pair, and write the public key here "
            "(nix-store --generate-binary-cache-key NAME secret-file public-file)"
        )
    good_name = name and name.isprintable() and " " not in name
    if not colon or not good_name or len(key) != _PUBLIC_KEY_BYTES:
        raise ValueError(
            "must be NAME:BASE64 with 32 bytes of key; write the line of the public "
            "file that nix-store --generate-binary-cache-key made"
        )
    return value
