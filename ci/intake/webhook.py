"""The public application: `POST /webhook` and nothing else.

Whoever has no valid signature gets one constant answer and leaves no trace but a
counted log line and a note that the next one replaces; only then is anything explained.
A delivery is answered 202 after it has become durable.
https://docs.github.com/en/webhooks/webhook-events-and-payloads
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ci.adapters import refusals
from ci.adapters.connections import Bounds
from ci.adapters.host import now_ms
from ci.config import Settings
from ci.door import Fault, Note, Refusal
from ci.errors import RequestError
from ci.history.deliveries import Arrival, Receipt
from ci.intake import probe
from ci.intake.arrival import Reception
from ci.intake.body import MAX_BODY, MIB
from ci.intake.quiet import quiet_logger
from ci.intake.signature import plausible, verified
from ci.intake.strangers import Lanes
from ci.text import printable

PATH = "/webhook"
# GitHub comes with a few connections at a time, all of them through one proxy.
BOUNDS = Bounds(connections=256)
SERVER = refusals.SERVER

log = logging.getLogger(__name__)
_refused = quiet_logger(f"{__name__}.refused")
_broken = quiet_logger(f"{__name__}.broken")


class Acceptor(Protocol):
    """What makes arrivals durable: a Ledger."""

    async def accept(self, arrival: Arrival) -> Receipt: ...


def public_application(
    *,
    settings: Settings,
    secrets: Callable[[], Sequence[bytes]],
    ledger: Acceptor,
    known: Mapping[int, str] | None = None,
    lanes: Lanes | None = None,
    on_unsigned: Callable[[], None] = lambda: None,
    on_refused: Note = lambda _refusal: None,
) -> web.Application:
    """The application that the internet may reach; run it with `runner_options()`.

    `secrets` is asked at each delivery, so that a rotation needs no restart. `known` is
    GitHub's repository id -> configured name as the history has it at the start.
    `on_unsigned` is called for each delivery whose signature is missing or wrong,
    `on_refused` with what is known of any that is refused for what it holds.
    """
    reception = Reception(
        settings.repositories, settings.github.status_context, known or {}
    )
    webhook = _Webhook(
        secrets, lanes or Lanes(), reception, ledger, on_unsigned, on_refused
    )
    application = web.Application(client_max_size=MAX_BODY, middlewares=[_guard])
    # A path without a pattern is found in one step.
    for path in (PATH, "/{path:.*}"):
        application.router.add_route("*", path, webhook.handle, expect_handler=_expect)
    return application


def runner_options() -> dict[str, Any]:
    """The options of the public application's listener (ci/listen.py)."""
    return {
        # A push that has arrived is recorded even if its sender hangs up.
        "handler_cancellation": False,
        "logger": _broken,
        "max_field_size": 8190,
        "max_headers": 64,
        "max_line_size": 4096,
        "shutdown_timeout": 10.0,
    }


class _Webhook:
    def __init__(
        self,
        secrets: Callable[[], Sequence[bytes]],
        lanes: Lanes,
        reception: Reception,
        ledger: Acceptor,
        on_unsigned: Callable[[], None],
        on_refused: Note,
    ) -> None:
        self._secrets = secrets
        self._lanes = lanes
        self._reception = reception
        self._ledger = ledger
        self._on_unsigned = on_unsigned
        self._on_refused = on_refused

    async def handle(self, request: web.Request) -> web.Response:
        if not _is_delivery(request):
            return _not_found()
        header = request.headers.get("X-Hub-Signature-256")
        if not plausible(header):
            return self._unsigned(request, Fault.UNSIGNED)
        body = await self._lanes.read(request)
        # Hashing and parsing a body of 25 MiB would hold up everybody else for 30 ms.
        aside = asyncio.to_thread if len(body) > MIB else _at_once
        if not await aside(verified, body, header, self._secrets()):
            return self._unsigned(request, Fault.SIGNATURE)
        proof = probe.answer(body, header, self._secrets())
        if proof is not None:
            # Before anything is remembered: it may be an old one, sent by who caught it.
            return _answer(200, {"probe": proof})
        self._lanes.signed_well(request)
        try:
            arrival = await aside(
                self._reception.arrival, request.headers, body, now_ms()
            )
        except RequestError as error:
            fault = Fault.FORM if error.status == 415 else Fault.OTHER
            self._on_refused(_refusal(request, fault, signed=True))
            raise
        receipt = await self._ledger.accept(arrival)
        self._reception.recorded(arrival)
        _tell(arrival, receipt)
        return _acknowledgement(receipt)

    def _unsigned(self, request: web.Request, fault: Fault) -> web.Response:
        self._on_unsigned()
        self._on_refused(_refusal(request, fault, signed=False))
        _refused.warning("delivery refused (401): no valid signature")
        return _answer(401, _error(401, "the signature is missing or wrong"))


def _refusal(request: web.Request, fault: Fault, *, signed: bool) -> Refusal:
    hook = request.headers.get("X-GitHub-Hook-ID", "")
    media = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0]
    return Refusal(
        at=now_ms(),
        fault=fault,
        # A hook's id is a number; whatever else is claimed is not repeated.
        hook=hook if hook.isascii() and hook.isdigit() and len(hook) < 20 else "",
        media=printable(media[:100]),
        signed=signed,
    )


Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


async def _at_once(
    function: Callable[Arguments, Result],
    /,
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    return function(*args, **kwargs)


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every way to fail into an answer of the one shape."""
    try:
        return await handler(request)
    except RequestError as error:
        _refused.warning(
            "delivery refused (%d): %s", error.status, printable(error.message)
        )
        response = _answer(error.status, _error(error.status, error.message))
        if error.status in (408, 413, 429):
            # The rest of the body may still be on its way.
            response.force_close()
        return response
    except web.HTTPException:
        # What no route takes, such as `OPTIONS *`.
        return _not_found()
    except Exception:
        _refused.exception("a delivery could not be handled")
        return _answer(500, _error(500, "the server failed; its log says why"))


async def _expect(request: web.Request) -> None:
    """Invite a body only where one could be welcome; ignore any other expectation."""
    invited = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
    if invited and _is_delivery(request):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # As aiohttp's own handler does: the answer proper has not begun.
        request.writer.output_size = 0


def _is_delivery(request: web.Request) -> bool:
    return request.method == hdrs.METH_POST and request.path == PATH


def _tell(arrival: Arrival, receipt: Receipt) -> None:
    outcome = f"builds {list(receipt.builds)}" if receipt.accepted else receipt.reason
    again = " (again)" if receipt.duplicate else ""
    log.info(
        "delivery %s, %s%s: %s", arrival.guid, arrival.event, again, printable(outcome)
    )


def _acknowledgement(receipt: Receipt) -> web.Response:
    if receipt.accepted:
        return _answer(202, {"accepted": True, "builds": receipt.builds})
    return _answer(202, {"accepted": False, "reason": receipt.reason})


def _error(status: int, sentence: str) -> dict[str, Any]:
    return {"error": sentence, "status": status, "detail": {}}


def _not_found() -> web.Response:
    return _answer(404, _error(404, "there is nothing here"))


def _answer(status: int, shape: Mapping[str, Any]) -> web.Response:
    return web.Response(
        status=status,
        body=json.dumps(shape).encode() + b"\n",
        headers={hdrs.CONTENT_TYPE: "application/json", hdrs.SERVER: SERVER},
    )
