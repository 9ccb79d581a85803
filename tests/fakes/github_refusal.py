"""How the stand-in for GitHub says no."""

from __future__ import annotations

from typing import Any

from aiohttp import web


class Refusal(Exception):
    """GitHub says no: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def refused(refusal: Refusal) -> web.Response:
    """The reply, in the shape that GitHub gives it."""
    document: dict[str, Any] = {
        "message": str(refusal),
        "documentation_url": "https://docs.github.com/rest",
    }
    if refusal.status == 422:
        document |= {
            "message": "Validation Failed",
            "errors": [
                {"resource": "Status", "code": "custom", "message": str(refusal)}
            ],
        }
        if str(refusal).startswith("No commit found"):
            document = {"message": str(refusal)}
    return web.json_response(document, status=refusal.status)
