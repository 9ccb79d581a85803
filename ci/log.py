"""The service's own log: one line for each event, without secrets, not to be forged.

On a terminal a line is for people, elsewhere it is a JSON object. Loggers are the
standard library's; `extra={"build": 412}` becomes a field of the line. Whatever is
logged, registered secrets come out as `[secret]` and characters that are not printable
as escapes, so that a branch name can neither add a line nor colour one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TextIO
from urllib.parse import quote

from ci.config.secret_files import Secrets
from ci.models import rfc3339
from ci.text import printable

REDACTED: Final = "[secret]"
NO_SECRETS: Final = Secrets()

# Every record has these; what else it has came by `extra`.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_COLOURS: Mapping[int, str] = {
    logging.DEBUG: "2",
    logging.INFO: "",
    logging.WARNING: "33",
    logging.ERROR: "31",
    logging.CRITICAL: "1;31",
}
_FRAMES = 4
_SHORTEST_ENCODED = 8


class Redactor:
    """Takes secrets out of text, also as they look in base64 and in a URL."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._forms: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Keep these out as well, from now on."""
        self._forms.update(form for secret in secrets for form in _forms(secret))
        # The longest first: a secret may begin with another one.
        ordered = sorted(self._forms, key=len, reverse=True)
        if ordered:
            self._pattern = re.compile("|".join(map(re.escape, ordered)))

    def __call__(self, text: str) -> str:
        return self._pattern.sub(REDACTED, text) if self._pattern else text


def _forms(secret: str) -> Iterator[str]:
    """A secret's lines (a PEM has many) and the ways they are written elsewhere."""
    for line in secret.splitlines():
        if line and not line.startswith(("-----BEGIN ", "-----END ")):
            yield line
            yield json.dumps(line)[1:-1]
            yield quote(line, safe="")
            yield from _encoded(line.encode())


def _encoded(secret: bytes) -> Iterator[str]:
    """What is the same in the base64 of every text that holds `secret`.

    Three characters stand for three bytes: there are three ways to begin, and the
    first and last characters also depend on what is around it.
    """
    for before in range(3):
        text = base64.b64encode(b"\0" * before + secret).decode()
        same = text.rstrip("=")[before + 1 if before else 0 : -1]
        if len(same) >= _SHORTEST_ENCODED:
            yield same


class CleanFormatter(logging.Formatter):
    """What the two forms share: clean text, extra fields, a short account of errors."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self.redact = redact

    def text(self, value: object) -> str:
        return printable(self.redact(str(value)))

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """What came by `extra`; numbers stay numbers."""
        if vars(record).keys() <= _ORDINARY:
            return {}
        return {
            name: value
            if isinstance(value, (int, float, type(None)))
            else self.text(value)
            for name, value in vars(record).items()
            if name not in _ORDINARY
        }


class JsonFormatter(CleanFormatter):
    """One JSON object a line: time, level, logger, message, fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.text(record.getMessage()),
        }
        for key, value in self.fields(record).items():
            line.setdefault(key, value)
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(record.exc_info[1]))
            line["exception"] = "\n".join(map(self.text, trace.splitlines()))
        return json.dumps(line)


class HumanFormatter(CleanFormatter):
    """`05:30:00 WARNING intake: message  build=412`, in colour when asked."""

    def __init__(self, redact: Redactor, *, colour: bool) -> None:
        super().__init__(redact)
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = self._paint(f"{record.levelname:<7}", record.levelno)
        name = record.name.removeprefix("ci.")
        line = f"{clock} {level} {name}: {self.text(record.getMessage())}"
        for key, value in self.fields(record).items():
            line += f"  {key}={value}"
        if record.exc_info and record.exc_info[1] is not None:
            line += "  " + self.text(_in_short(record.exc_info[1]))
        return line

    def _paint(self, text: str, level: int) -> str:
        code = _COLOURS.get(level, "") if self.colour else ""
        return f"\x1b[{code}m{text}\x1b[0m" if code else text


def _in_short(error: BaseException) -> str:
    """`ValueError: … (app.py:12 serve < cli.py:40 main)`, where it was raised first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
        for frame in reversed(frames)
    ]
    where = f" ({' < '.join(places)})" if places else ""
    return f"{type(error).__name__}: {error}{where}"


class RateLimit(logging.Filter):
    """Lets `burst` records pass in `seconds`, then counts; the next one tells how many.

    For loggers that strangers can make speak: aiohttp logs a traceback for every
    malformed request that reaches the public listener.
    """

    def __init__(
        self,
        burst: int = 5,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._burst = burst
        self._seconds = seconds
        self._clock = clock
        self._window = clock()
        self._passed = 0
        self._held = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now - self._window >= self._seconds:
            self._window, self._passed = now, 0
        if self._passed >= self._burst:
            self._held += 1
            return False
        self._passed += 1
        if self._held:
            record.held_back = self._held
            self._held = 0
        return True


class Handler(logging.StreamHandler[TextIO]):
    """Writes clean lines; `redact.add` keeps further secrets out while it is in use.

    What is logged in one turn of an event loop goes out in one piece at its end: under
    load a system call for each line costs more than the line. Errors, and what comes
    from elsewhere, go out at once; the order is kept.
    """

    def __init__(self, stream: TextIO, formatter: CleanFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self.redact = formatter.redact
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            loop = _running_loop()
            if loop is None or record.levelno >= logging.ERROR:
                self.flush()
            elif len(self._lines) == 1:
                loop.call_soon(self._flush, record)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()
        finally:
            self.release()

    def _flush(self, record: logging.LogRecord) -> None:
        try:
            self.flush()
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        # The standard one prints message and arguments: they may hold secrets.
        error = sys.exc_info()[0]
        name = error.__name__ if error else "error"
        place = f"{Path(record.pathname).name}:{record.lineno}"
        if sys.__stderr__ is not None:
            # When not even that can be written, nobody is left to tell.
            with contextlib.suppress(OSError, ValueError):
                sys.__stderr__.write(f"build-server: lost a log line, {place} {name}\n")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def keep_out(secrets: Iterable[str]) -> None:
    """Keep further secrets out of the log that `setup` began, if it did."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Handler):
            handler.redact.add(secrets)


def wants_colour(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """A terminal, no NO_COLOR (https://no-color.org) and not a dumb one."""
    plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def setup(
    stream: TextIO,
    environ: Mapping[str, str],
    secrets: Secrets = NO_SECRETS,
    *,
    level: int = logging.INFO,
) -> Handler:
    """Send every logger's records to `stream`; again replaces what was set up before.

    `secrets` never appear; further ones are added with `redact.add` of the handler.
    """
    redact = Redactor(secrets.values())
    formatter: CleanFormatter = JsonFormatter(redact)
    if stream.isatty():
        formatter = HumanFormatter(redact, colour=wants_colour(stream, environ))
    handler = Handler(stream, formatter)
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one, Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    noisy = logging.getLogger("aiohttp.server")
    if not any(isinstance(one, RateLimit) for one in noisy.filters):
        noisy.addFilter(RateLimit())
    return handler
