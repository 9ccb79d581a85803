"""What the public door turns away leaves one note of each kind, and no more."""

from __future__ import annotations

from urllib.parse import urlencode

from ci.door import NEWS_EVERY, Door, Fault, Refusal
from tests.fakes.push import encode, headers, make_ping, make_push
from tests.intake.edge import Edge

FORM = "application/x-www-form-urlencoded"
BODY = encode(make_ping())


async def test_each_refusal_is_noted_with_why(edge: Edge) -> None:
    form = urlencode({"payload": BODY}).encode()
    unsigned = headers(BODY)
    del unsigned["X-Hub-Signature-256"]
    sent = [
        (BODY, headers(BODY, b"another secret"), 401),
        (BODY, unsigned, 401),
        (form, headers(form, content_type=FORM), 415),
        (b"{}", headers(b"{}"), 400),
        (BODY, headers(BODY, event="ping"), 202),
    ]
    for body, told, status in sent:
        answered, _ = await edge.post(body, told)
        assert answered == status
    assert [(each.fault, each.signed) for each in edge.refused] == [
        (Fault.SIGNATURE, False),
        (Fault.UNSIGNED, False),
        (Fault.FORM, True),
        (Fault.OTHER, True),
    ]
    assert {each.hook for each in edge.refused} == {"30"}
    assert edge.refused[2].media == FORM
    # Nothing of it is in the history.
    assert len(await edge.rows()) == 1


async def test_what_a_stranger_claims_is_not_repeated_as_it_is(edge: Edge) -> None:
    told = headers(BODY, b"another secret", hook_id="<script>")
    await edge.post(BODY, told | {"Content-Type": "a" * 4000})
    (note,) = edge.refused
    assert note.hook == ""
    assert note.media == "a" * 100


async def test_what_is_welcome_is_no_refusal(edge: Edge) -> None:
    status, _ = await edge.deliver(make_push())
    assert status == 202
    assert edge.refused == []


def test_the_door_remembers_the_newest_of_each_kind_and_rings_seldom() -> None:
    rings: list[int] = []
    door = Door(lambda: rings.append(1))
    start = 1_000_000
    for at in range(start, start + 2 * NEWS_EVERY):
        door.note(Refusal(at, Fault.UNSIGNED, "", "", signed=False))
    assert len(rings) == 2
    door.note(Refusal(start + 5, Fault.SIGNATURE, "30", "", signed=False))
    found = door.last(start)
    assert found is not None
    # A wrong signature tells more than none, which any scanner of the internet sends.
    assert found.fault is Fault.SIGNATURE
    later = door.last(start + 5)
    assert later is not None
    assert later.fault is Fault.UNSIGNED
    assert door.last(start + 2 * NEWS_EVERY) is None
