"""What one route is: registered by api.py, described by openapi.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp.typedefs import Handler
from pydantic import BaseModel

from ci.serve import parameters
from ci.serve.answers import SUFFIXES

NUMBER = "/builds/{number:[^/.]+}"
"""The path of a build; a suffix may follow."""


@dataclass(frozen=True)
class Answer:
    """One possible answer: a shape as JSON, text, a page, or the one that is wanted.

    `media` is the type of an answer that has only that one.
    """

    meaning: str
    shapes: tuple[type[BaseModel], ...] = ()
    text: bool = False
    page: bool = False
    media: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """One method of one path, with everything a caller can meet there."""

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Answer]
    query: type[BaseModel] = parameters.NoQuery
    body: type[BaseModel] | None = None
    twin: str = ""
    # Not part of the interface: stylesheets and the like.
    hidden: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The path and, for a page, its `.json` and `.txt` twins; suffixed ones first."""
        if not self.twin:
            return (self.path,)
        return (*(self.twin + suffix for suffix in SUFFIXES), self.path)
