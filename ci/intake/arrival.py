"""From the headers and body of a signed delivery to an Arrival, without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from aiohttp import hdrs

from ci.config import Repository
from ci.errors import RequestError
from ci.history.deliveries import Arrival, Plan
from ci.intake.plan import decide, greet
from ci.intake.push import Ignored, Ping, Push, parse

MAX_HEADER = 128


class Reception:
    """Knows the repositories, and follows those that GitHub renames.

    `known` is GitHub's repository id -> configured name, as the history has it at the
    start; `context` is the name under which statuses are posted.
    """

    def __init__(
        self, repositories: Sequence[Repository], context: str, known: Mapping[int, str]
    ) -> None:
        self._repositories = repositories
        self._context = context
        self._known = dict(known)

    def arrival(self, headers: Mapping[str, str], body: bytes, at: int) -> Arrival:
        """What the delivery that came `at` (ms since the epoch) asks for.

        Raises RequestError: 415 for a body in a form that is not read here, 400 for one
        that is not what its headers say. `headers` must not mind upper and lower case.
        """
        _check_form(headers)
        hook_id = _header(headers, "X-GitHub-Hook-ID", default="")
        guid = _header(headers, "X-GitHub-Delivery")
        event = _header(headers, "X-GitHub-Event")
        said = parse(event, body)
        meaning = self._meaning(said)
        push = said if isinstance(said, Push) else None
        return Arrival(
            hook_id=hook_id,
            guid=guid,
            event=event,
            received_at=at,
            body_sha256=hashlib.sha256(body).hexdigest(),
            ref=push.ref if push else None,
            before=push.before if push else None,
            after=push.after if push else None,
            forced=push.forced if push else False,
            plan=meaning if isinstance(meaning, Plan) else None,
            reason=meaning.reason if isinstance(meaning, Ignored) else "",
            repo=meaning.repo,
            deleted=meaning.deleted if isinstance(meaning, Ignored) else None,
            context=self._context,
        )

    def recorded(self, arrival: Arrival) -> None:
        """Follow the repository by its id from now on; a name has one id at a time."""
        plan = arrival.plan
        if plan is not None and self._known.get(plan.github_id) != plan.repo:
            others = {
                github_id: repo
                for github_id, repo in self._known.items()
                if repo != plan.repo
            }
            self._known = others | {plan.github_id: plan.repo}

    def _meaning(self, said: Push | Ping | Ignored) -> Plan | Ignored:
        match said:
            case Push():
                return decide(said, self._repositories, self._known, self._context)
            case Ping():
                return greet(said, self._repositories, self._known)
            case Ignored():
                return said


def _check_form(headers: Mapping[str, str]) -> None:
    if hdrs.CONTENT_ENCODING in headers:
        raise RequestError(
            415,
            "the body came with a Content-Encoding; GitHub sends it plain: something on "
            "the way must be told to leave it alone",
        )
    media_type = headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise RequestError(
            415,
            "the webhook must send application/json; change it on GitHub: Settings, "
            "Webhooks, Edit, Content type",
        )


def _header(headers: Mapping[str, str], name: str, default: str | None = None) -> str:
    value = headers.get(name, default)
    if not value and default is None:
        raise RequestError(400, f"the header {name} is missing; GitHub always sends it")
    value = value or ""
    if len(value) > MAX_HEADER or not value.isascii() or not value.isprintable():
        raise RequestError(400, f"the header {name} is not one that GitHub would send")
    return value
