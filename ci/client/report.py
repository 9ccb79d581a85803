"""How a build is told: for people, for programs, as JSON; once, or as it goes on.

Each way loads what it needs when it is taken: `bs` in a prompt must start at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from ci.client import as_json, exits
from ci.client.builds import Build
from ci.client.exits import Exit, Failure
from ci.client.look import life_sign, record, target_record
from ci.client.session import Session
from ci.client.terminal import Side


def show(session: Session, build: Build) -> None:
    """The build as it is now, on stdout."""
    out = session.screen.out
    if session.arguments.json is not None:
        show_json(session, build, pretty=out.tty)
    elif out.tty:
        _show_block(session, build, out)
    else:
        out.line(record(build))


def show_json(session: Session, build: Build | None, *, pretty: bool) -> None:
    """BUILD, or the fields asked for; null for one that there is not yet."""
    chosen = as_json.entry(build, session.arguments.json)
    session.screen.out.line(as_json.dump(chosen, pretty=pretty))


def show_queued(session: Session, build: Build, *, again: bool = False) -> None:
    """What we have just queued, for people, with what they may expect."""
    from ci.client.past import expected
    from ci.client.render import queued

    others, usual = 0, None
    # It is queued, whatever becomes of the questions about it.
    with suppress(Failure):
        waiting = session.api.waiting()
        others = sum(each.number != build.number for each in waiting)
        usual = expected(session.api, build)
    lines = queued(build, session.look(), others=others, usual=usual, again=again)
    session.screen.out.lines(lines)


def wait(session: Session, build: Build, *, fail_fast: bool = False) -> Exit:
    """Wait for the end, telling what ends meanwhile; then the build, and its code.

    With JSON every change is a BUILD on a line of its own.
    """
    if session.arguments.json is not None:
        # So that all lines have the same keys.
        with suppress(Failure):
            build = session.api.detailed(build)
    if build.final:
        show(session, build)
        return exits.of_state(build.state)

    def until(found: Build) -> bool:
        return found.final or (fail_fast and _has_failed(found))

    try:
        last = _watch(session, build, until)
    except KeyboardInterrupt:
        return session.detached(build, "status", "-w", str(build.number))
    if session.arguments.json is None:
        show(session, last)
    return exits.of_state(last.state) if last.final else Exit.FAILED


def _watch(session: Session, build: Build, until: Callable[[Build], bool]) -> Build:
    """Tell the news in the way of this run, until it is over."""
    from ci.client.watch import watch

    out, as_lines = session.screen.out, session.arguments.json is not None
    if out.draws and not as_lines:
        return _watch_live(session, build, until)

    def tell(found: Build, before: Build | None) -> None:
        if as_lines:
            show_json(session, found, pretty=False)
        elif out.tty:
            _tell_people(session, found, before)
        else:
            _tell_programs(session, found, before)

    return watch(
        session.api,
        build,
        tell,
        patience=session.patience(),
        heartbeat=session.heartbeat(),
        until=until,
    )


def _watch_live(
    session: Session, build: Build, until: Callable[[Build], bool]
) -> Build:
    """The same on a terminal that can be drawn on."""
    from ci.client.live import Live
    from ci.client.region import Region
    from ci.client.watch import watch

    with Region(session.screen) as region:
        live = Live(session, region)
        return watch(
            session.api,
            build,
            live.tell,
            seen=live.seen,
            pause_for=live.pause,
            patience=session.patience(live.pause),
            heartbeat=session.heartbeat(),
            until=until,
        )


def follow(session: Session, build: Build) -> Exit:
    """The whole log to stdout as it grows, then the build to stderr, and its code."""
    from ci.client.follow import Reader
    from ci.client.printers import Lines, coloured

    out = session.screen.out
    reader = Reader(session.api, build, Lines(out, coloured(out.colour)))
    try:
        last = reader.follow(patience=session.patience(), heartbeat=session.heartbeat())
    except KeyboardInterrupt:
        return session.detached(build, "logs", "-f", str(build.number))
    conclude(session, last)
    return exits.of_state(last.state)


def conclude(session: Session, build: Build) -> None:
    """The result, apart from the log that was printed before it."""
    side = session.screen.err
    if side.tty:
        _show_block(session, build, side)
    else:
        session.screen.hint(f"#{build.number} {build.state}")


def _show_block(session: Session, build: Build, side: Side) -> None:
    from ci.client.past import look_back
    from ci.client.render import block

    past = None
    with suppress(Failure):
        build = session.api.detailed(build)
        past = look_back(session.api, build)
    side.lines(block(build, session.look(side), past))


def _tell_people(session: Session, build: Build, before: Build | None) -> None:
    from ci.client.render import headline
    from ci.client.watch import just_ended

    out, look = session.screen.out, session.look()
    if before is None:
        out.lines(headline(build, look))
    elif not build.final and _moved(build, before):
        out.line(f"{look.mark(build.state)} {life_sign(build, look.now)}")
    for target in just_ended(build, before):
        out.line(look.target(target, error=True))


def _tell_programs(session: Session, build: Build, before: Build | None) -> None:
    from ci.client.watch import just_ended

    if before is None or (not build.final and _moved(build, before)):
        session.screen.hint(life_sign(build, session.server.now()))
    for target in just_ended(build, before):
        session.screen.out.line(target_record(target))


def _moved(build: Build, before: Build) -> bool:
    return (build.state, build.attempt) != (before.state, before.attempt)


def _has_failed(build: Build) -> bool:
    return any(target.state == "failed" for target in build.ended)
