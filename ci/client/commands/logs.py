"""`bl`: the log that its reader wants: of what failed, of what runs, else the whole."""

from __future__ import annotations

from ci.client import exits, report
from ci.client.builds import Build, Target
from ci.client.exits import Exit, Failure
from ci.client.follow import Printer, Reader
from ci.client.printers import Lines, Raw, coloured, json_lines, timed
from ci.client.session import Session
from ci.client.text import printable

ON_TERMINAL = 200
MAX_LINES = 10_000


def run(session: Session) -> int:
    arguments = session.arguments
    if arguments.raw and arguments.grep:
        raise Failure(Exit.USAGE, "--raw has no lines, so --grep cannot choose any")
    if arguments.raw and arguments.timestamps:
        raise Failure(Exit.USAGE, "--raw has no lines, so -t can date none")
    if arguments.failed and arguments.follow:
        raise Failure(Exit.USAGE, "-f follows one log; --failed is for after the end")
    if arguments.target and (arguments.all or arguments.failed):
        raise Failure(Exit.USAGE, "a TARGET excludes --all and --failed")
    build, name = _chosen(session)
    targets = _targets(session, build, name)
    if arguments.follow and not build.final:
        return _follow(session, build, targets[0] if targets else None)
    if not build.attempt:
        return _nothing(session, build)
    if not targets:
        _print(session, build, None)
    for target in targets:
        _print(session, build, target)
    if not name:
        _hint_at_others(session, build, targets)
    if arguments.follow:
        report.conclude(session, build)
        return exits.of_state(build.state)
    return Exit.OK


def _chosen(session: Session) -> tuple[Build, str | None]:
    """The build, and the name of its target; what names no build may name a target."""
    name, target = session.arguments.build, session.arguments.target
    try:
        return session.chooser.choose(name), target
    except Failure as problem:
        may_be_target = name is not None and target is None and not name.isdigit()
        if problem.code is not Exit.NOT_FOUND or not may_be_target:
            raise
        build = session.chooser.choose(None)
        if not any(name in each.own_name for each in build.targets):
            raise problem from None
        return build, name


def _targets(session: Session, build: Build, name: str | None) -> list[Target]:
    """Whose lines are wanted; none: the whole log."""
    arguments = session.arguments
    if name:
        return [_named(build, name)]
    if arguments.all:
        return []
    failed = [each for each in build.failing if each.state == "failed"]
    if arguments.failed:
        if not failed:
            raise Failure(Exit.NOT_FOUND, f"no target of #{build.number} has failed")
        return failed
    return failed[:1] if build.state == "failed" else []


def _named(build: Build, name: str) -> Target:
    """The target of that name, else the only one whose name has it in it."""
    for target in build.targets:
        if name == target.own_name:
            return target
    found = [target for target in build.targets if name in target.own_name]
    if len(found) == 1:
        return found[0]
    names = ", ".join(target.name for target in found or build.targets)
    if found:
        sentence = f'"{printable(name)}" may be one of {names}'
        raise Failure(Exit.USAGE, sentence)
    raise Failure(
        Exit.NOT_FOUND,
        f'#{build.number} has no target "{printable(name)}"; it has {names or "none"}',
    )


def _hint_at_others(session: Session, build: Build, shown: list[Target]) -> None:
    """One log is enough to begin with, but it is not said that it is the only one."""
    others = len(build.failing) - len(shown)
    if shown and others > 0:
        command = session.words.command("logs", "--failed", str(build.number))
        session.screen.hint(f"{others} more failed: {command}")


def _nothing(session: Session, build: Build) -> Exit:
    """A build that no attempt was made of has no log."""
    number = str(build.number)
    if build.final:
        session.screen.hint(f"#{number} was {build.state} before it ran: no log")
        return exits.of_state(build.state) if session.arguments.follow else Exit.OK
    again = session.words.command("logs", "-f", number)
    session.screen.hint(f"#{number} is queued: no log yet. As soon as it runs: {again}")
    return Exit.UNFINISHED


def _print(session: Session, build: Build, target: Target | None) -> None:
    """What the log has now: all of it, or its end."""
    lines = _lines(session)
    filtered = target is not None or session.arguments.grep is not None
    # Without a filter the server can tell where the last lines of what runs or ran begin.
    told = not filtered and build.state != "queued"
    if lines is not None and lines <= MAX_LINES and told:
        attempt, offset = session.api.log_end(build.number, lines)
        printer = _printer(session, build, target, None)
        _head(session, build, target, _last(lines) if offset else "")
        _reader(session, build, target, printer, attempt, offset).read()
    else:
        printer = _printer(session, build, target, lines)
        reader = _reader(session, build, target, printer)
        if lines is None:
            _head(session, build, target)
        reader.read()
        if lines is not None:
            _head(session, build, target, _shown(printer, lines))
    printer.end()
    if printer.empty:
        session.screen.hint("no line of the log is its own, or matches")
    elif session.arguments.grep and isinstance(printer, Lines):
        few = "lines matches" if printer.matched == 1 else "lines match"
        session.screen.hint(f"{printer.matched} of {printer.total} {few}")
    _say_if_undated(session, printer)
    if not build.final:
        command = session.words.command("logs", "-f", str(build.number))
        session.screen.hint(f"#{build.number} is {build.state}; follow: {command}")


def _say_if_undated(session: Session, printer: Printer) -> None:
    """Dashes alone would look like a fault of ours."""
    undated = isinstance(printer, Lines) and printer.total and not printer.dated
    if session.arguments.timestamps and undated:
        session.screen.hint("the server kept no times of this log")


def _follow(session: Session, build: Build, target: Target | None) -> Exit:
    """Its end now, and then all that comes; of a target all its lines."""
    attempt, offset = 0, 0
    lines = _lines(session) if build.state == "running" and target is None else None
    if lines is not None:
        attempt, offset = session.api.log_end(build.number, min(lines, MAX_LINES))
    _head(session, build, target, _last(lines) if offset else "")
    printer = _printer(session, build, target, None)
    reader = _reader(session, build, target, printer, attempt, offset)
    try:
        last = reader.follow(patience=session.patience(), heartbeat=session.heartbeat())
    except KeyboardInterrupt:
        named = [target.own_name] if target else []
        return session.detached(build, "logs", "-f", str(build.number), *named)
    report.conclude(session, last)
    return exits.of_state(last.state)


def _lines(session: Session) -> int | None:
    """How many of the last lines; None: all."""
    arguments = session.arguments
    if arguments.lines is None and session.screen.out.tty and not arguments.grep:
        return ON_TERMINAL
    lines: int | None = arguments.lines
    return lines


def _reader(
    session: Session,
    build: Build,
    target: Target | None,
    printer: Printer,
    attempt: int = 0,
    offset: int = 0,
) -> Reader:
    return Reader(
        session.api,
        build,
        printer,
        target=target.own_name if target else None,
        attempt=attempt,
        offset=offset,
        timed=session.arguments.timestamps,
    )


def _printer(
    session: Session, build: Build, target: Target | None, last: int | None
) -> Printer:
    arguments, out = session.arguments, session.screen.out
    if arguments.raw:
        return Raw(out, last=last)
    name = target.own_name if target else None
    if arguments.json:
        line = json_lines(build.number, name, times=arguments.timestamps)
    else:
        line = timed(out) if arguments.timestamps else coloured(out.colour)
    return Lines(out, line, matching=arguments.grep, last=last)


def _last(lines: int | None) -> str:
    return "" if lines is None else f"last {lines} lines"


def _shown(printer: Printer, lines: int) -> str:
    """`lines 786–812 of 812`: the log, or the target, has been read to its end."""
    if isinstance(printer, Lines):
        printer.close()
    if not printer.left_out:
        return ""
    if isinstance(printer, Lines) and printer.matched == printer.total:
        total = printer.total
        return f"lines {total - lines + 1}–{total} of {total}"
    return _last(lines)


def _head(
    session: Session, build: Build, target: Target | None, last: str = ""
) -> None:
    """Whose lines follow, to stderr: `── #412 ✗ checks.web-test  1m 40s ──`."""
    look = session.look(session.screen.err)
    if not session.screen.err.tty:
        whose = f"{target.name} {target.state}" if target else build.state
        said = f"#{build.number} {whose}"
        session.screen.hint(", ".join(part for part in (said, last) if part))
        return
    whose = (
        look.target(target, look.width - len(f"── #{build.number}  · {last}"))
        if target
        else f"{look.mark(build.state)} {look.verdict(build)[0]}"
    )
    parts = (f"#{build.number} {whose}", last)
    session.screen.heading(" · ".join(part for part in parts if part))
