from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import example, given, strategies as st

from ci.intake.signature import plausible, verified
from tests.fakes.push import sign

OLD, NEW = b"o" * 32, b"n" * 32


def test_githubs_own_test_vector() -> None:
    # https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    secret = b"It's a Secret to Everybody"
    header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert verified(b"Hello, World!", header, [secret])
    assert not verified(b"Hello, World?", header, [secret])


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_either_of_two_live_secrets_signs(secret: bytes) -> None:
    assert verified(b"body", sign(b"body", secret), [OLD, NEW])
    assert not verified(b"body", sign(b"body", secret), [b"x" * 32])
    assert not verified(b"body", sign(b"body", secret), [])


def test_an_empty_secret_signs_nothing() -> None:
    assert not verified(b"body", sign(b"body", b""), [b""])
    assert verified(b"body", sign(b"body", NEW), [b"", NEW])


def test_sha1_is_no_signature() -> None:
    sha1 = hmac.new(NEW, b"body", hashlib.sha1).hexdigest()
    for header in (f"sha1={sha1}", f"sha256={sha1}", sha1):
        assert not verified(b"body", header, [NEW])


SIGNED = sign(b"body", NEW)


@given(st.none() | st.text() | st.text(min_size=64, max_size=64).map("sha256=".__add__))
@example("sha256=" + "\udcff" * 64)
@example("sha256=" + "\ud800" * 64)
@example("sha256=" + "é" * 64)
@example(SIGNED.upper())
@example("sha256=" + SIGNED.removeprefix("sha256=").upper())
@example(SIGNED + "0")
@example(SIGNED[:-1])
@example(SIGNED[:-1] + "\0")
@example(" " + SIGNED)
@example("")
def test_no_other_header_passes_and_none_raises(header: str | None) -> None:
    assert not verified(b"body", header, [OLD, NEW])


@given(st.binary(max_size=2000), st.binary(min_size=1, max_size=200))
def test_every_signed_body_passes_and_no_changed_one(
    body: bytes, secret: bytes
) -> None:
    header = sign(body, secret)
    assert plausible(header)
    assert verified(body, header, [secret])
    assert not verified(body + b"\0", header, [secret])
