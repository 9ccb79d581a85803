"""The outermost middlewares: every answer is counted, every failure has one shape."""

from __future__ import annotations

import logging
import secrets
import sqlite3
import time
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ci.errors import HistoryError, RequestError
from ci.history import faults
from ci.serve import answers, html, shapes
from ci.serve.answers import error_answer
from ci.serve.parameters import MAX_BODY
from ci.serve.service import service_of

log = logging.getLogger(__name__)

KNOWN_METHODS = hdrs.METH_ALL - {hdrs.METH_ANY}


@web.middleware
async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the answer by route; unknown paths and methods share one label each."""
    started = time.monotonic()
    response = await handler(request)
    resource = request.match_info.route.resource
    service_of(request).metrics.http_request(
        route=resource.canonical if resource else "unknown",
        method=request.method if request.method in KNOWN_METHODS else "other",
        status=response.status,
        seconds=time.monotonic() - started,
    )
    return response


@web.middleware
async def dress_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A refusal as a page, for whoever asked for a page."""
    response = await handler(request)
    if response.status < 400 or not isinstance(response, web.Response):
        return response
    if not isinstance(response.body, bytes):
        return response
    if answers.wanted(request, "json", html.FORMS) != "page":
        return response
    error = shapes.Error.model_validate_json(response.body)
    title = f"{error.status} {HTTPStatus(error.status).phrase}"
    page = html.Page("error.html", title, {"error": error}, icon="bad")
    dressed = await html.as_page(request, page, error.status)
    for name in (hdrs.WWW_AUTHENTICATE, hdrs.ALLOW):
        if name in response.headers:
            dressed.headers[name] = response.headers[name]
    return dressed


@web.middleware
async def shape_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into the one error shape; internals stay in the log."""
    try:
        return await handler(request)
    except RequestError as error:
        return _refused(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refused_by_aiohttp(request, error)
    except HistoryError as error:
        log.error("the history failed: %s", error)
        return error_answer(503, f"the history cannot be used now: {error}")
    except Exception as error:
        if isinstance(error, sqlite3.OperationalError) and (
            faults.code(error) != sqlite3.SQLITE_ERROR
        ):
            # No room, locked; any other code is a mistake in our SQL.
            log.error("the history failed: %s", error)
            return error_answer(503, f"nothing can be recorded now: {error}")
        reference = secrets.token_hex(4)
        log.exception("%s %s failed [%s]", request.method, request.path, reference)
        return error_answer(
            500,
            f"something in the server broke; its log says what under {reference}",
            {"reference": reference},
        )


def _refused(error: RequestError) -> web.Response:
    answer = error_answer(error.status, error.message, error.detail)
    if error.status == 401:
        answer.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="build-server"'
    return answer


def _refused_by_aiohttp(request: web.Request, error: web.HTTPException) -> web.Response:
    """aiohttp's own refusals: no such path, no such method, a body over the limit."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        answer = error_answer(
            405,
            f"{request.path[:200]} does not take this method; it takes {allowed}",
            {"allowed": sorted(error.allowed_methods)},
        )
        answer.headers[hdrs.ALLOW] = allowed
        return answer
    sentence = {
        404: f"there is nothing at {request.path[:200]}; GET /openapi.json lists all",
        413: f"the body is over the limit of {MAX_BODY} bytes",
    }.get(error.status, error.reason.lower())
    return error_answer(error.status, sentence)
