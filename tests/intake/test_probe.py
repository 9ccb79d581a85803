"""A signed question is answered with a proof and leaves no trace; nothing else is."""

from __future__ import annotations

import logging

import pytest

from ci.intake.probe import EVENT, answer, proof, question
from ci.intake.signature import signature, verified
from tests.fakes.push import SECRET, headers, sign
from tests.intake.edge import Edge

NONCE = bytes(range(32))
OTHER = b"another secret, 32 bytes or more"


async def test_the_answer_proves_the_secret_and_nothing_is_recorded(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    body = question(NONCE)
    first = await edge.post(body, headers(body, event=EVENT))
    assert first == (200, {"probe": proof(SECRET, body)})
    # Caught on its way and sent again, under any header: the same, without a trace.
    for event in (EVENT, "push", "ping", "issues"):
        assert await edge.post(body, headers(body, event=event)) == first
    for name in ("deliveries", "builds", "repositories"):
        assert await edge.rows(name) == []
    assert edge.wake.count == 0
    assert "delivery" not in caplog.text


async def test_during_a_rotation_the_answer_is_made_with_the_secret_that_asked(
    edge: Edge,
) -> None:
    edge.secrets[:] = [OTHER, SECRET]
    body = question(NONCE)
    for secret in (OTHER, SECRET):
        status, shape = await edge.post(body, headers(body, secret, event=EVENT))
        assert (status, shape) == (200, {"probe": proof(secret, body)})
    assert proof(OTHER, body) != proof(SECRET, body)


async def test_a_stranger_s_question_gets_the_constant_answer(edge: Edge) -> None:
    body = question(NONCE)
    good = headers(body, event=EVENT)
    unsigned = {
        name: value for name, value in good.items() if name != "X-Hub-Signature-256"
    }
    constant = {
        "error": "the signature is missing or wrong",
        "status": 401,
        "detail": {},
    }
    for head in (unsigned, headers(body, OTHER, event=EVENT), headers(b"x")):
        assert await edge.post(body, head) == (401, constant)
    assert await edge.rows() == []


def test_no_answer_can_be_sent_back_as_a_signed_delivery() -> None:
    body = question(NONCE)
    given = proof(SECRET, body)
    for pretended in (body, b"answer" + body, NONCE, b"answer" + NONCE):
        assert not verified(pretended, f"sha256={given}", [SECRET])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        question(NONCE)[:-1],
        question(NONCE) + b"\n",
        question(NONCE).upper(),
        question(NONCE).replace(b"0", b"g", 1),
        b" " + question(NONCE)[1:],
    ],
)
def test_only_the_exact_form_is_a_question(body: bytes) -> None:
    assert answer(body, signature(body, SECRET), [SECRET]) is None


def test_what_we_sign_is_what_github_would_sign() -> None:
    assert signature(b"body", SECRET) == sign(b"body", SECRET)
