"""Who sent this body: GitHub's HMAC over the raw bytes, SHA-256 only.

https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
The older SHA-1 header (`X-Hub-Signature`) is never looked at.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "sha256="
_LENGTH = len(PREFIX) + 2 * hashlib.sha256().digest_size


def signature(body: bytes, secret: bytes) -> str:
    """The header that says that a holder of `secret` sent `body`."""
    return PREFIX + hmac.digest(secret, body, "sha256").hex()


def plausible(header: str | None) -> bool:
    """Tell whether the header has the outer form of a signature at all.

    What fails here can be refused before its body is read.
    """
    return header is not None and len(header) == _LENGTH and header.startswith(PREFIX)


def verified(body: bytes, header: str | None, secrets: Sequence[bytes]) -> bool:
    """Tell whether one of the live secrets signed `body`; never raises.

    Two secrets are live while one replaces the other. An empty secret signs nothing.
    The comparison takes the same time wherever the difference lies, and whichever
    secret fits.
    """
    if header is None or not plausible(header):
        return False
    # As bytes, because compare_digest raises TypeError on non-ASCII text.
    given = header.encode("ascii", "replace")
    found = False
    for secret in secrets:
        expected = signature(body, secret).encode()
        found |= hmac.compare_digest(expected, given) and secret != b""
    return found
