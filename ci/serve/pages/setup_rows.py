"""What the first run needs, row by row: what was seen of it, and what is to be done.

Pure functions from what is known at one moment. No secret is known here, only the names
of the files that hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from urllib.parse import quote, urlsplit

from ci.adapters.github.hooks import new_page
from ci.config import Settings
from ci.door import Fault, Refusal
from ci.history.arrived import Arrived, Delivery
from ci.models import Check, human_seconds, rfc3339
from ci.serve.about import seen_from_outside
from ci.serve.guard import host_name
from ci.serve.seen import Machine

GITHUB_API = "https://api.github.com"
NEW_TOKEN = "https://github.com/settings/personal-access-tokens/new"  # noqa: S105
HOST_CHECKS = (
    *("git", "nix", "nix settings", "bwrap", "sandbox"),
    *("disk", "store", "cache", "clock"),
)
PING_WORKS = "ping: the webhook works"


class RowState(StrEnum):
    """How far a row is; `optional`: nothing is missing without it."""

    WAITING = "waiting"
    WELL = "well"
    LOOK = "look"
    WRONG = "wrong"
    OPTIONAL = "optional"


@dataclass(frozen=True)
class Line:
    """One row: `seen` at the moment `at` (ms), what mends it, and lines to copy."""

    key: str
    title: str
    state: RowState
    seen: str
    at: int | None = None
    fix: str = ""
    copy: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What is known at one moment; `doctor` is None as long as it looks.

    `refused`: what the public door turned away after the newest signed delivery.
    `secret_files`: names of the files with the webhook's secret. `host`: by which the
    page was opened, and `caller` by whom. `opened`: when a build's page last was by a
    link on github.com, in ms; 0: not since the server began.
    """

    settings: Settings
    arrived: Arrived
    health: Sequence[Check]
    doctor: Sequence[Check] | None
    refused: Refusal | None = None
    machines: Sequence[Machine] = ()
    secret_files: Sequence[str] = ()
    notifies: bool = False
    host: str = ""
    caller: str = ""
    opened: int = 0
    by_name: dict[str, Check] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        # The running server knows better where both look.
        for check in (*(self.doctor or ()), *self.health):
            self.by_name[check.name] = check


def rows(facts: Facts) -> list[Line]:
    """All rows, in the order in which one would do them."""
    return [
        _address(facts),
        _credential(facts),
        _webhook(facts),
        _push(facts),
        _host(facts),
        _status(facts),
        _machines(facts),
        _notifications(facts),
        _badge(facts),
    ]


def clock(at: int) -> str:
    """`14:02:11 UTC`."""
    return f"{(rfc3339(at) or '')[11:19]} UTC"


def _address(facts: Facts) -> Line:
    url = facts.settings.public_url
    parts = urlsplit(url)
    seen = f"{url} is the link of each commit status; opened now from {facts.caller}"
    line = Line("address", "Address", RowState.WELL, seen)
    public = host_name(parts.netloc)
    if facts.host and host_name(facts.host) != public:
        line = replace(
            line,
            state=RowState.LOOK,
            seen=f"{url} is the link of each commit status, but this page was opened "
            f"as {facts.host}, from {facts.caller}",
            fix=f"open {url}/setup from another machine: what GitHub links to must open",
            copy=(f"{url}/setup",),
        )
    elif parts.scheme == "http":
        port = f":{facts.settings.listen.private.port or 8000}"
        line = replace(
            line,
            state=RowState.LOOK,
            fix="over plain http a browser keeps its clipboard and notifications off; "
            f"`tailscale serve` gives https: then write public_url = "
            f'"https://{public}:8443"',
            copy=(f"tailscale serve --bg --https=8443 http://127.0.0.1{port}",),
        )
    return line


def _credential(facts: Facts) -> Line:
    line = Line("credential", "GitHub credential", RowState.WAITING, "still looking…")
    check = facts.by_name.get("token")
    if check is None:
        return line
    if check.ok:
        return replace(line, state=RowState.WELL, seen=check.detail)
    ours = facts.settings.github.api_url == GITHUB_API
    return replace(
        line,
        state=RowState.WRONG,
        seen=check.detail,
        fix=check.fix,
        copy=(NEW_TOKEN,) if ours else (),
    )


def _webhook(facts: Facts) -> Line:
    github = facts.settings.github
    line = Line("webhook", "Webhook", RowState.WAITING, "waiting for a ping…")
    if not github.webhook:
        seen = f"switched off: {_looking(facts.settings)}"
        return replace(line, state=RowState.OPTIONAL, seen=seen)
    url = github.public_webhook_url
    line = replace(line, copy=(url,) if url else (), notes=_webhook_notes(facts))
    heard = facts.arrived.ping or facts.arrived.push
    if heard is not None:
        line = _heard(line, heard)
    if facts.refused is not None:
        line = _turned_away(line, facts, facts.refused, heard=heard is not None)
    funnel = facts.by_name.get("funnel")
    if funnel is not None and not funnel.ok and line.state is not RowState.WRONG:
        line = replace(line, state=RowState.WRONG, seen=funnel.detail, fix=funnel.fix)
    if line.state is RowState.WAITING:
        line = replace(line, fix=_how_to_make(facts))
    return line


def _webhook_notes(facts: Facts) -> tuple[str, ...]:
    github = facts.settings.github
    public = facts.by_name.get("funnel")
    files = " and ".join(facts.secret_files) or "a credential of the service"
    return (
        f"Payload URL: {github.public_webhook_url or 'https://HOST.TAILNET.ts.net/webhook'}",
        "Content type: application/json",
        f"Secret: what is in {files}",
        "Events: just the push event",
        f"From the internet: {public.detail}"
        if public
        else "From the internet: not looked at; write github.public_webhook_url. "
        f"Until a webhook comes, {_looking(facts.settings)}",
    )


def _looking(settings: Settings) -> str:
    every = settings.github.reconcile_every
    if math.isinf(every):
        return "nobody finds new commits (reconcile_every is never)"
    return f"new commits are found by looking every {human_seconds(every)}"


def _how_to_make(facts: Facts) -> str:
    settings = facts.settings
    if not settings.github.public_webhook_url:
        return (
            "open the way in (tailscale funnel) and name it in "
            "github.public_webhook_url; `build-server init` registers the webhook"
        )
    where = new_page(settings.github.api_url, settings.repositories[0].name)
    return f"`build-server init` registers it with a token; by hand: {where}"


def _heard(line: Line, heard: Delivery) -> Line:
    hook = f" from hook {heard.hook}" if heard.hook else ""
    what = "push" if heard.ref else "ping"
    seen = f"{what} {clock(heard.at)}{hook}, signature ok"
    if what == "ping" and heard.reason != PING_WORKS:
        fix = "change it on GitHub: Settings, Webhooks, Edit"
        seen += f", but: {heard.reason}"
        return replace(line, state=RowState.WRONG, seen=seen, at=heard.at, fix=fix)
    return replace(line, state=RowState.WELL, seen=seen, at=heard.at)


def _turned_away(line: Line, facts: Facts, refused: Refusal, *, heard: bool) -> Line:
    """What the newest refusal says; whoever did not sign may be anybody."""
    hook = f" from hook {refused.hook}" if refused.hook else ""
    came = f"{clock(refused.at)}: a delivery{hook} came"
    files = " or ".join(facts.secret_files) or "the service's credential"
    match refused.fault:
        case Fault.FORM:
            seen = f"{came} as {refused.media or 'no known type'}, signature ok"
            fix = (
                "choose application/json: on GitHub, Settings, Webhooks, Edit, "
                "Content type"
            )
        case Fault.SIGNATURE:
            seen = f"{came}, signature wrong: the secret differs"
            fix = (
                f"put what is in {files} into the webhook's Secret on GitHub; "
                "`build-server init` does it with a token"
            )
        case Fault.UNSIGNED:
            seen = f"{came} without a signature: the webhook has no secret"
            fix = f"put what is in {files} into the webhook's Secret on GitHub"
        case _:
            seen = f"{came} that is not what GitHub sends"
            fix = "the server's log says what; is something on the way changing it?"
    if heard and not refused.signed:
        note = f"{seen} (or a stranger sent it)"
        return replace(line, state=RowState.LOOK, notes=(note, *line.notes), fix=fix)
    return replace(line, state=RowState.WRONG, seen=seen, at=refused.at, fix=fix)


def _push(facts: Facts) -> Line:
    arrived, first = facts.arrived, facts.settings.repositories[0]
    wanted = " or ".join(
        f"{' / '.join(each.branches)} of {each.name}"
        for each in facts.settings.repositories
    )
    line = Line(
        "push",
        "First push",
        RowState.WAITING,
        f"waiting for a push to {wanted}…",
        copy=(f"git push origin HEAD:{first.branches[0]}",),
        notes=tuple(_ignored(arrived.ignored)),
    )
    if arrived.push is not None:
        what = f"push of {(arrived.push.after or '')[:7]} to {_branch(arrived.push)}"
        where = f" of {arrived.push.repo}" if arrived.push.repo else ""
        seen = f"{what}{where}, {clock(arrived.push.at)}"
        return replace(line, state=RowState.WELL, seen=seen, at=arrived.push.at)
    if arrived.begun:
        seen = "no push was told of yet; builds began without one"
        return replace(line, state=RowState.LOOK, seen=seen)
    return line


def _ignored(deliveries: Iterable[Delivery]) -> Iterable[str]:
    for each in deliveries:
        yield f"ignored {clock(each.at)}: push to {_branch(each)}: {each.reason}"


def _branch(delivery: Delivery) -> str:
    return (delivery.ref or "?").removeprefix("refs/heads/")


def _host(facts: Facts) -> Line:
    line = Line("host", "Nix, sandbox, disk, cache", RowState.WAITING, "still looking…")
    if facts.doctor is None:
        return line
    checks = [check for check in facts.doctor if check.name in HOST_CHECKS]
    bad = [check for check in checks if not check.ok]
    notes = (*map(_told, bad), *(_told(check) for check in checks if check.ok))
    line = replace(line, copy=_substituter(facts.settings), notes=notes)
    if not bad:
        seen = f"all {len(checks)} checks are well"
        return replace(line, state=RowState.WELL, seen=seen)
    names = ", ".join(check.name for check in bad)
    seen = f"{len(bad)} of {len(checks)} checks found something: {names}"
    return replace(line, state=RowState.WRONG, seen=seen)


def _told(check: Check) -> str:
    told = f"{check.name}: {check.detail}"
    return told if check.ok or not check.fix else f"✗ {told} → {check.fix}"


def _substituter(settings: Settings) -> tuple[str, ...]:
    """What goes into the nix.conf of a machine that fetches from here."""
    if settings.cache is None:
        return ()
    url = seen_from_outside(settings.cache.url, settings.public_url)
    return (
        f"extra-substituters = {url}",
        f"extra-trusted-public-keys = {settings.cache.public_key}",
    )


def _status(facts: Facts) -> Line:
    arrived = facts.arrived
    line = Line(
        "status", "Commit status", RowState.WAITING, "waiting for the first build…"
    )
    line = replace(
        line,
        notes=tuple(
            f"refused for good: {item.context} of build #{item.build}: {item.error}"
            for item in arrived.dead
        ),
    )
    check = facts.by_name.get("statuses")
    if check is not None and not check.ok:
        waiting = f"; {arrived.waiting} wait" if arrived.waiting else ""
        seen = check.detail + waiting
        return replace(line, state=RowState.WRONG, seen=seen, fix=check.fix)
    if arrived.posted is not None:
        last = arrived.posted
        seen = f"{last.state} of build #{last.build} posted, {clock(last.at)}"
        if facts.opened:
            seen += f"; its link was opened on github.com, {clock(facts.opened)}"
        else:
            line = replace(line, notes=(*line.notes, _open_it(facts.settings)))
        return replace(line, state=RowState.WELL, seen=seen, at=last.at)
    return line


def _open_it(settings: Settings) -> str:
    """How to see that the way from GitHub to a build's page works."""
    begin = "open it from GitHub, by Details beside the commit's mark: this row then"
    if settings.public_url.startswith("http:"):
        return f"{begin} cannot say so, for browsers do not tell plain http whence"
    return f"{begin} says so, until the server is started again"


def _machines(facts: Facts) -> Line:
    url = facts.settings.public_url
    line = Line(
        "machines",
        "Machines",
        RowState.WAITING,
        "waiting for a machine that asks: `bs` is enough",
        copy=(
            "curl -fsS --create-dirs -o ~/.config/build-server/client.toml "
            f"{url}/client.toml",
        ),
        notes=(
            "bt: build the newest commit now",
            "bs: how it is; the exit code is the result",
            "bl: the log",
        ),
    )
    if not facts.machines:
        return line
    seen = ", ".join(
        f"{machine.name} ({clock(machine.at)})" for machine in facts.machines[:5]
    )
    newest = facts.machines[0].at
    return replace(line, state=RowState.WELL, seen=f"seen from {seen}", at=newest)


def _notifications(facts: Facts) -> Line:
    line = Line("notifications", "Notifications", RowState.WELL, "configured")
    if facts.notifies:
        return replace(line, copy=("build-server notify --test",))
    return replace(
        line,
        state=RowState.OPTIONAL,
        seen="not configured: nobody is told when a branch breaks",
        fix="put addresses into a file (ntfy://…, mailto://…) and name it in "
        "notify.urls_file",
    )


def _badge(facts: Facts) -> Line:
    settings = facts.settings
    repo = settings.repositories[0]
    badge = f"{settings.public_url}/repos/{quote(repo.name)}/badge.svg"
    return Line(
        "badge",
        "Badge",
        RowState.OPTIONAL,
        "GitHub's own pages fetch images through a proxy of GitHub's, which reaches no "
        "tailnet: in a README there the badge stays empty",
        copy=(f"[![{repo.branches[0]}]({badge})]({settings.public_url})",),
    )
