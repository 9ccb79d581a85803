"""Messages for people, in words: what broke, whose commit, since when, where to look.

Pure. Titles, authors and errors come from outside: everything is made printable here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from ci.adapters.apprise import Kind as Tone, Message
from ci.history.notices import Draft, Kind, News, Notice
from ci.models import Build, BuildState, Check, human_seconds, rfc3339
from ci.report.describe import SHORT_SHA, clip
from ci.text import printable

TITLE = 120
LINE = 300
TARGETS_SHOWN = 5
TONES: dict[Kind, Tone] = {
    "broken": "failure",
    "fixed": "success",
    "trouble": "warning",
    "well": "success",
}


def of_branch(news: News, since: Build | None, *, public_url: str, now: int) -> Draft:
    """The message on what a branch has become; `since` is its first bad build."""
    build, branch = news.build, news.subject.name
    where = f"{branch} of {build.repo}"
    if news.state == "good":
        title, body = f"✓ {where} is fixed", list(_fixed(news, now))
    else:
        failed = _failed(build)
        what = failed[0].partition(": ")[0] if len(failed) == 1 else ""
        what = what or (f"{len(failed)} targets" if failed else build.summary)
        title, body = f"✗ {where} is broken: {what}", list(_broken(build, since))
    body.append(f"{public_url}/builds/{build.number}")
    return Draft(
        "fixed" if news.state == "good" else "broken", _title(title), _text(body)
    )


def of_trouble(check: Check, *, public_url: str) -> Draft:
    """A check of the service itself that does not become well."""
    body = [
        check.detail,
        check.fix and f"What helps: {check.fix}",
        f"{public_url}/setup",
    ]
    title = f"! build-server on {_host(public_url)} is in trouble: {check.name}"
    return Draft("trouble", _title(title), _text(body))


def of_wellness(name: str, detail: str, *, public_url: str) -> Draft:
    """A check that was told as trouble, and is well again."""
    title = f"✓ build-server on {_host(public_url)} is well again: {name}"
    return Draft("well", _title(title), _text([detail, f"{public_url}/setup"]))


def message(notices: Sequence[Notice], public_url: str) -> Message:
    """One message for one notice, or a summary of several."""
    first = notices[0]
    if len(notices) == 1:
        return Message(first.title, first.body, TONES[first.kind])
    title = f"{len(notices)} messages of build-server on {_host(public_url)}"
    bad = any(each.kind in ("broken", "trouble") for each in notices)
    body = [*(each.title for each in notices), public_url]
    return Message(_title(title), _text(body), "failure" if bad else "success")


def trial(public_url: str) -> Message:
    """What `build-server notify --test` sends."""
    title = f"build-server on {_host(public_url)}: a test"
    return Message(_title(title), f"Messages come through.\n{public_url}")


def _broken(build: Build, since: Build | None) -> Iterator[str]:
    failed = _failed(build)
    yield from failed[:TARGETS_SHOWN] or [build.summary]
    if len(failed) > TARGETS_SHOWN:
        yield f"and {len(failed) - TARGETS_SHOWN} more"
    yield _commit(build)
    if since is not None and since.number != build.number:
        yield f"broken since {_day(since.finished_at)} by {_commit(since)}"


def _fixed(news: News, now: int) -> Iterator[str]:
    yield _commit(news.build)
    if news.told is not None:
        took = human_seconds(max(0, now - news.told.since) / 1000)
        yield f"it was broken for {took}, since {_day(news.told.since)}"


def _failed(build: Build) -> list[str]:
    return [
        f"{target.name}: {target.error or 'failed'}"
        for target in build.targets
        if target.state is BuildState.FAILED
    ]


def _commit(build: Build) -> str:
    return f"commit {build.sha[:SHORT_SHA]} “{build.title}” by {build.author}"


def _day(at: int | None) -> str:
    return (rfc3339(at) or "").replace("T", " ")[:16] + " UTC"


def _host(public_url: str) -> str:
    return urlsplit(public_url).hostname or public_url


def _title(text: str) -> str:
    return clip(_printable(text), TITLE)


def _text(lines: Sequence[str]) -> str:
    return "\n".join(clip(_printable(line), LINE) for line in lines if line)


def _printable(text: str) -> str:
    return printable(" ".join(text.split()))
