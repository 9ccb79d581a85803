"""Loggers that strangers can make speak: one line a second, which counts the others."""

from __future__ import annotations

import logging
import time

from aiohttp.http_exceptions import HttpProcessingError

from ci.text import printable

INTERVAL = 1.0


class OncePerInterval(logging.Filter):
    """Lets one record pass per interval (seconds) and tells how many it held back."""

    def __init__(self, interval: float = INTERVAL) -> None:
        super().__init__()
        self._interval = interval
        self._next = 0.0
        self._held_back = 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            self._held_back += 1
            return False
        self._next = now + self._interval
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # The peer's fault: a traceback of aiohttp's parser explains nothing.
            record.exc_info = None
            self._append(record, f": {printable(error.message.partition(chr(10))[0])}")
        if self._held_back:
            self._append(record, f" ({self._held_back} more held back before)")
            self._held_back = 0
        return True

    @staticmethod
    def _append(record: logging.LogRecord, text: str) -> None:
        record.msg = record.getMessage() + text
        record.args = ()


def quiet_logger(name: str) -> logging.Logger:
    """The logger of that name, limited to one line per second."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, OncePerInterval) for found in logger.filters):
        logger.addFilter(OncePerInterval())
    return logger
