"""Messages through a real Apprise to a real endpoint, and what becomes of bad ones."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ci.adapters import apprise
from ci.adapters.apprise import Message, send
from ci.errors import HostFault
from tests.fakes.mailbox import Mailbox
from tests.fakes.waiting import wait_until

HELLO = Message(
    "✗ dev is <b>broken</b>", "checks.web: expected 200 & got 500\nnext", "failure"
)
CLOSED = "json://bob:pa55word@127.0.0.1:1/s3cret-path?+X-Key=s3cret-header"


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    async with Mailbox() as box:
        yield box


async def test_a_message_arrives_as_it_is(mailbox: Mailbox) -> None:
    (delivery,) = await send(f"# mine\n{mailbox.url}\n", HELLO)
    assert (delivery.service, delivery.sent, delivery.error) == ("JSON", True, "")
    (message,) = mailbox.messages
    assert message["title"] == HELLO.title
    assert message["message"] == HELLO.body
    assert message["type"] == "failure"


async def test_a_configuration_of_apprise_will_do(mailbox: Mailbox) -> None:
    tried = await send(f"version: 1\nurls:\n  - {mailbox.url}:\n      tag: x\n", HELLO)
    assert [each.sent for each in tried] == [True]
    assert mailbox.titles == [HELLO.title]


async def test_each_address_is_tried_and_none_is_repeated(mailbox: Mailbox) -> None:
    addresses = f"{CLOSED}\n{mailbox.url}\nbogus://nothing\n{mailbox.endless}"
    tried = {each.mark: each for each in await send(addresses, HELLO)}
    assert len(tried) == 3
    assert [each.sent for each in tried.values()].count(True) == 1
    assert mailbox.titles == [HELLO.title]
    told = " ".join(each.error for each in tried.values())
    assert "A Connection error occurred sending JSON notification" in told
    # The host may be the secret: with ntfy:// it is the name of the topic.
    for secret in ("pa55word", "s3cret", mailbox.token, "bob", "127.0.0.1"):
        assert secret not in told
    # A second try leaves out those that have it.
    reached = [each.mark for each in tried.values() if each.sent]
    again = await send(addresses, HELLO, reached=reached)
    assert {each.mark: each.sent for each in again} == {
        mark: each.sent for mark, each in tried.items()
    }
    assert mailbox.titles == [HELLO.title]


async def test_a_refusal_is_told(mailbox: Mailbox) -> None:
    mailbox.status = 403
    (delivery,) = await send(mailbox.url, HELLO)
    assert not delivery.sent
    assert "403" in delivery.error


async def test_an_endpoint_that_says_nothing_is_left(mailbox: Mailbox) -> None:
    mailbox.status = 0
    (delivery,) = await send(mailbox.url, HELLO, patience=1.0)
    # Apprise itself gives up after four seconds, in several tries.
    assert delivery.error == "no answer within 1 s"


@pytest.mark.parametrize("addresses", ["bogus://nothing", "version: 1\nurls: []", "\0"])
async def test_what_apprise_cannot_read_is_said(addresses: str) -> None:
    with pytest.raises(HostFault, match="understands none of the addresses"):
        await send(addresses, HELLO)


async def test_no_other_user_can_read_an_address(mailbox: Mailbox) -> None:
    mailbox.status = 0
    sending = asyncio.create_task(send(mailbox.url, HELLO, patience=20.0))
    # By what it was started with: the arguments and the environment of the process.
    child = await wait_until(_child, what="the process of Apprise")
    assert child is not None
    for name in ("cmdline", "environ"):
        assert mailbox.token not in (child / name).read_text(errors="replace")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await wait_until(lambda: _child() != child, what="the end of that process")


def _child() -> Path | None:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(apprise.CHILD).encode() in arguments and arguments[0].endswith(
            Path(sys.executable).name.encode()
        ):
            # Other tests have theirs at the same time.
            mine = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            if entry.name in mine.split():
                return entry
    return None
