"""The server's question to itself from outside, and the answer that proves it is itself.

The question is signed like any delivery, so a stranger's gets the constant 401. What
makes it a question is its body, which is signed, never the event header, which is not:
whoever caught one on its way can send it again under any header, and it stays a
question that leaves no trace. The answer is made with a key derived from the secret, so
that it can never pass for the signature of a delivery.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence

from ci.intake.signature import verified

EVENT = "build-server-probe"

_QUESTION = re.compile(rb"build-server-probe ([0-9a-f]{64})\n")
_LENGTH = len(b"build-server-probe \n") + 64
_PURPOSE = b"build-server: the answer to a probe"


def question(nonce: bytes) -> bytes:
    """The body that asks: `nonce` is 32 bytes that were never used before."""
    return b"build-server-probe " + nonce.hex().encode() + b"\n"


def proof(secret: bytes, asked: bytes) -> str:
    """What only a holder of `secret` can answer to the body `asked`."""
    key = hmac.digest(secret, _PURPOSE, "sha256")
    return hmac.digest(key, b"answer" + asked, "sha256").hex()


def answer(body: bytes, signature: str | None, secrets: Sequence[bytes]) -> str | None:
    """The proof for a signed question; None when `body` is something else.

    It is made with the secret that signed: during a rotation there are two.
    """
    if len(body) != _LENGTH or not _QUESTION.fullmatch(body):
        return None
    signers = (secret for secret in secrets if verified(body, signature, [secret]))
    signer = next(signers, None)
    return None if signer is None else proof(signer, body)
