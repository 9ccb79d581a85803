"""`build-client doctor`: what lies between here and the server, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from ci.client import address, examine, lost
from ci.client.as_json import dump
from ci.client.builds import Malformed
from ci.client.examine import BAD, GOOD, WARNING, Finding
from ci.client.exits import Exit, Failure, Unreachable
from ci.client.look import Look
from ci.client.session import Session
from ci.client.text import pad, width, wrap

_STATES = {GOOD: "succeeded", WARNING: "error", BAD: "failed"}


def run(session: Session) -> int:
    findings, reached = _look(session)
    out = session.screen.out
    if session.arguments.json:
        out.line(dump([each.entry() for each in findings], pretty=out.tty))
    elif out.tty:
        out.lines(_lines(findings, session.look()))
    else:
        out.lines("\t".join(_record(each)) for each in findings)
    if not reached:
        return Exit.UNREACHABLE
    bad = any(finding.level == BAD for finding in findings)
    return Exit.FAILED if bad else Exit.OK


def _look(session: Session) -> tuple[list[Finding], bool]:
    """The findings, and whether a build-server answered."""
    api, server = session.api, session.server
    findings = [examine.configuration(session.address)]
    try:
        findings.append(examine.reach(api))
        findings.append(examine.clock(api))
        findings.append(_token(session))
        findings += examine.health(api)
    except Malformed:
        findings.append(examine.unreachable(lost.foreign(server.address)))
        return findings, False
    except Failure as problem:
        findings.append(examine.unreachable(problem))
        return findings, not isinstance(problem, Unreachable)
    return findings, True


def _token(session: Session) -> Finding:
    path = session.environ.get(address.TOKEN_VARIABLE, "")
    try:
        given = address.token(session.environ)
    except Failure as problem:
        fix = f"write the server's token there, or unset {address.TOKEN_VARIABLE}"
        return Finding("token", BAD, problem.sentence, fix)
    return examine.credential(session.api, path, given)


def _lines(findings: list[Finding], look: Look) -> Iterator[str]:
    names = max(width(finding.name) for finding in findings)
    for finding in findings:
        state = _STATES[finding.level]
        first, *rest = wrap(finding.detail, look.width - names - 4) or [""]
        yield f"{look.mark(state)} {pad(finding.name, names)}  {first}"
        for row in [*rest, *wrap(_fix(finding), look.width - names - 4)]:
            yield " " * (names + 4) + row


def _fix(finding: Finding) -> str:
    return f"fix: {finding.fix}" if finding.fix else ""


def _record(finding: Finding) -> tuple[str, ...]:
    return finding.level, finding.name, finding.detail, finding.fix or "-"
