"""What the server says of its looking for missed pushes: checks, from memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

from ci.history.missed import RECENT, Tally
from ci.history.watched import Unannounced
from ci.intake.visits import Visits
from ci.models import Check, human_seconds, rfc3339

OFF = Check("reconcile", True, 'off: github.reconcile_every is "never"')
WEBHOOK_FIX = (
    "is Funnel up (`tailscale funnel status`), is the secret the same on GitHub, does the "
    'webhook exist and send pushes? "Recent deliveries" on its page at GitHub says'
)
BRANCHES_FIX = (
    "nothing of it is built: correct `branches` of that [[repository]] in the configuration "
    "(`git ls-remote --heads` with its url lists what there is), or push one of them"
)


def looking(visits: Collection[Visits], slow: float) -> Check:
    """Whether every repository was compared with its remote, and why not."""
    now = time.monotonic()
    bad = [each for each in (_trouble(visit, now, slow) for visit in visits) if each]
    if bad:
        return Check(
            "reconcile",
            False,
            "; ".join(bad),
            "pushes that no webhook told of are not found until then; it is tried again "
            "by itself: check the network, the repository's url and the credential",
        )
    blind = [_absent(visit) for visit in visits if visit.look.sees_nothing]
    if blind:
        return Check("reconcile", False, "; ".join(blind), BRANCHES_FIX)
    looked = [visit.good_at for visit in visits if visit.good_at is not None]
    if not looked or len(looked) < len(visits):
        return Check("reconcile", True, "looking for the first time")
    many = f"{len(visits)} repositories are" if len(visits) > 1 else "1 repository is"
    ago = human_seconds(now - min(looked))
    said = [f"{many} as the remote shows it, {ago} ago"]
    said += [_absent(visit) for visit in visits if visit.look.absent]
    return Check("reconcile", True, "; ".join(said))


def _absent(visit: Visits) -> str:
    return f"{visit.name} has no branch {' or '.join(visit.look.absent)}"


def _trouble(visit: Visits, now: float, slow: float) -> str:
    last = "never" if visit.good_at is None else human_seconds(now - visit.good_at)
    ago = last if last == "never" else f"{last} ago"
    if visit.trouble:
        return f"{visit.name}: {visit.trouble} (last good look: {ago})"
    if visit.began_at is not None and now - visit.began_at > slow:
        took = human_seconds(now - visit.began_at)
        return f"{visit.name}: no answer for {took} (last good look: {ago})"
    return ""


def announcing(unannounced: Sequence[Unannounced]) -> Check:
    """Whether GitHub tells us of pushes; `unannounced` are those it should have told."""
    if not unannounced:
        return Check("webhook", True, "no push was found that GitHub did not tell of")
    detail = "; ".join(
        f"{each.branch} of {each.repo} moved to {each.sha[:7]} at {rfc3339(each.seen_at)} "
        "and GitHub told nothing"
        for each in unannounced
    )
    return Check("webhook", False, detail, WEBHOOK_FIX)


def missing(tally: Tally, troubles: Sequence[str]) -> Iterator[Check]:
    """The ledger of missed deliveries, when there is something in it or to say of it."""
    said = [counts(tally)] if tally.missed else []
    if said or troubles:
        yield Check(
            "missed",
            not tally.late,
            "; ".join([*said, *troubles]),
            f"{tally.late} deliveries do not come although GitHub was asked for them: see "
            '"Recent deliveries" of the webhook at GitHub',
        )


def counts(tally: Tally) -> str:
    """`3 missed, 3 recovered`, and over which time where that makes a difference."""
    recent = f"{tally.recent_missed} missed, {tally.recent_recovered} recovered"
    if tally.recent_missed == tally.missed:
        return recent
    days = RECENT // (24 * 3600 * 1000)
    total = f"{tally.missed} missed, {tally.recovered} recovered"
    return f"{recent} in {days} days; {total} in all"
