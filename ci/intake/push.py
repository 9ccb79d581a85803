"""What a delivery says, without I/O: the bytes of a push or a ping become values.

Shapes: `webhook-push` and `webhook-ping` of GitHub's published OpenAPI description,
reduced to the keys that are used; everything else in a payload is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ci.errors import RequestError
from ci.models import Commit

# GitHub sends at most 2048 commits; four times that is surely not a push.
MAX_COMMITS = 8192
MAX_TITLE = 500
MAX_AUTHOR = 200

# 40 hex digits, or 64 in a repository that uses SHA-256.
Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}(?:[0-9a-f]{24})?$")]
# GitHub's alphabet for names, and never dots alone: the name goes into API paths.
_NAME = "[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*"
FullName = Annotated[
    str, StringConstraints(pattern=f"^{_NAME}/{_NAME}$", max_length=256)
]


class _Model(BaseModel):
    model_config = ConfigDict(
        extra="ignore", strict=True, frozen=True, hide_input_in_errors=True
    )


_Read = TypeVar("_Read", bound=_Model)


class Author(_Model):
    name: str | None = None


class PushedCommit(_Model):
    """One element of `commits[]`, or `head_commit`."""

    id: Sha
    message: str
    author: Author

    @classmethod
    def unknown(cls, sha: str) -> PushedCommit:
        """A commit of which no more than its name was told."""
        return cls(id=sha, message="", author=Author())

    def commit(self) -> Commit:
        """The commit as the history keeps it, its texts cut to a bounded length."""
        return Commit(
            sha=self.id,
            title=title(self.message),
            author=(self.author.name or "")[:MAX_AUTHOR],
        )


class PushedRepository(_Model):
    """`id` stays the same when the repository is renamed; `full_name` does not."""

    # What an SQLite integer can hold.
    id: Annotated[int, Field(ge=1, lt=2**63)]
    full_name: FullName


class Push(_Model):
    """A ref that moved from `before` to `after`; all zeros stand for "no such ref"."""

    ref: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    before: Sha
    after: Sha
    created: bool
    deleted: bool
    forced: bool
    commits: Annotated[tuple[PushedCommit, ...], Field(max_length=MAX_COMMITS)]
    head_commit: PushedCommit | None
    repository: PushedRepository


class _HookConfig(_Model):
    content_type: str = "form"


class _Hook(_Model):
    events: tuple[str, ...] = ()
    config: _HookConfig = _HookConfig()


class Ping(_Model):
    """GitHub's greeting to a new webhook; an organization's has no repository."""

    hook: _Hook = _Hook()
    repository: PushedRepository | None = None

    @property
    def sends_pushes(self) -> bool:
        return "push" in self.hook.events or "*" in self.hook.events


@dataclass(frozen=True)
class Ignored:
    """A delivery that is understood and leads to nothing; `reason` is for a person.

    `repo` is the configured name of the repository it is about, when that is known;
    `deleted` is the watched branch that is gone.
    """

    reason: str
    repo: str | None = None
    deleted: str | None = None


def parse(event: str, body: bytes) -> Push | Ping | Ignored:
    """Read a signed body as what its event name says.

    Raises RequestError (400) when a push or a ping is not what GitHub documents.
    """
    match event:
        case "push":
            return _read(Push, event, body)
        case "ping":
            return _read(Ping, event, body)
        case _:
            return Ignored(
                f"{event} events are not used; only push events start builds"
            )


def _read(model: type[_Read], event: str, body: bytes) -> _Read:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise RequestError(
            400,
            f"this is not a {event} payload as GitHub sends it: "
            f"{where}: {first['msg']}",
        ) from None


def title(message: str) -> str:
    """The first line of a commit message, cut; control characters stay as they are."""
    return message.lstrip("\r\n").partition("\n")[0].rstrip("\r")[:MAX_TITLE]
