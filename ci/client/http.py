"""One server, asked over one kept connection; every way in which it can let us down.

Redirects are never followed: a POST, and the token with it, goes nowhere but where the
user said. An exchange has `timeout` seconds as a whole, however slowly it drips.
"""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
)
from urllib.parse import quote, urlencode

from ci import __version__
from ci.client import lost
from ci.client.address import Address
from ci.client.exits import Unreachable

MAX_BODY = 32 * 1024 * 1024
PIECE = 64 * 1024
SILENCE = 30.0
BEGINS_WITHIN = 2.0
CLOCK_TOLERANCE = 3.0
AGENT = f"build-client/{__version__}"

Query = Mapping[str, str | int | None]
Answer = tuple[HTTPResponse, bytes]


def skew(date: str | None, sent: float, now: float) -> float:
    """Seconds by which the clock is ahead of ours that told the `Date` of an answer.

    It was told at some moment between `sent` and `now`, both in seconds since the epoch by
    our clock, and in whole seconds: what that explains is no difference.
    """
    try:
        told = parsedate_to_datetime(date).timestamp() + 0.5 if date else now
    except ValueError:
        return 0.0
    explained = sent - CLOCK_TOLERANCE <= told <= now + CLOCK_TOLERANCE
    return 0.0 if explained else told - now


class Silent(Exception):
    """A stream brought nothing for a while; it may go on all the same."""


class Server:
    """Asks `address`; `token` is called for what changes something, `trace` told all.

    A stream is Silent after `silence` seconds.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        token: Callable[[], str | None],
        trace: Callable[[str], None],
        silence: float = SILENCE,
    ) -> None:
        self.address = address
        self.timeout = timeout
        self._silence = silence
        self.skew = 0.0
        self._token = token
        self._trace = trace
        self._kept: HTTPConnection | None = None

    def get(self, path: str, query: Query | None = None) -> object:
        """The JSON of a GET; raises Unreachable or Refused."""
        connection, reused = self._kept or self._connection(), self._kept is not None
        self._kept = None
        try:
            answer = self._ask(connection, "GET", path, query)
        except Unreachable as problem:
            # A connection that lay idle may have been closed by the server meanwhile.
            if not reused or not isinstance(problem.__cause__, ConnectionError):
                raise
            connection = self._connection()
            answer = self._ask(connection, "GET", path, query)
        self._kept = connection
        return answer

    def post(self, path: str, body: Mapping[str, object] | None = None) -> object:
        """The JSON of a POST, sent once; raises Unreachable or Refused."""
        with closing(self._connection()) as connection:
            return self._ask(connection, "POST", path, None, body or {})

    def head(self, path: str, query: Query) -> HTTPMessage | None:
        """The headers that a GET would have; None for a refusal: it has no sentence."""
        connection = self._connection()

        def ask() -> Answer:
            response = self._send(connection, "HEAD", path, query)
            if response.status < 400:
                self._check(response)
            connection.close()
            return response, b""

        response, _ = self._within(connection, ask)
        return response.headers if response.status < 400 else None

    @contextmanager
    def stream(
        self, path: str, query: Query
    ) -> Iterator[tuple[HTTPMessage, Iterator[bytes]]]:
        """Headers and body, as it comes; the body raises Silent or Unreachable."""
        connection = self._connection(self._silence)

        def ask() -> Answer:
            response = self._send(connection, "GET", path, query)
            return response, self._check(response)

        try:
            response, _ = self._within(connection, ask)
            yield response.headers, self._chunks(response)
        finally:
            connection.close()

    @contextmanager
    def news(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """What follows the first piece of a stream that begins at once.

        With the descriptor that can be read when more has come.
        """
        connection = self._connection(self._silence)

        def ask() -> Answer:
            response = self._send(connection, "GET", path, None)
            self._check(response)
            media = response.headers.get_content_type()
            if media != "text/event-stream" or response.length is not None:
                raise lost.foreign(self.address, response)
            # It may have come with the headers, and then nobody could see it.
            first = response.read1(PIECE)
            if response.isclosed():
                raise ConnectionResetError
            return response, first

        try:
            within = min(BEGINS_WITHIN, self.timeout)
            response, _ = self._within(connection, ask, within)
            with closing(response):
                yield response.fileno(), self._chunks(response)
        finally:
            connection.close()

    def close(self) -> None:
        """Give the kept connection back."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def now(self) -> float:
        """The server's clock, in seconds since the epoch: its times are told by it."""
        return time.time() + self.skew

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        query: Query | None = None,
        body: Mapping[str, object] | None = None,
    ) -> object:
        def ask() -> Answer:
            response = self._send(connection, method, path, query, body)
            # Closed by itself: an alarm in the middle of a read leaves its file open.
            with closing(response):
                return response, self._check(response) or response.read(MAX_BODY + 1)

        response, raw = self._within(connection, ask)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            connection.close()
            raise lost.foreign(self.address, response) from None

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        query: Query | None,
        body: Mapping[str, object] | None = None,
    ) -> HTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": AGENT}
        raw = None
        if method == "POST":
            raw = json.dumps(body).encode() if body else b""
            headers["Content-Type"] = "application/json"
            if token := self._token():
                headers["Authorization"] = f"Bearer {token}"
        started, sent = time.monotonic(), time.time()
        target = self.address.prefix + path + _query(query)
        connection.request(method, target, body=raw, headers=headers)
        response = connection.getresponse()
        took = time.monotonic() - started
        self._trace(f"{method} {target} {response.status} {took * 1000:.0f} ms")
        self.skew = skew(response.headers.get("Date"), sent, time.time())
        return response

    def _check(self, response: HTTPResponse) -> bytes:
        """Raise for a redirect, a refusal, or somebody who is no build-server."""
        if response.status < 300:
            return b""
        raw = response.read(MAX_BODY) if response.status >= 400 else b""
        raise lost.refusal(self.address, response, raw, token=self._token)

    def _chunks(self, response: HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := response.read1(PIECE):
                yield chunk
        except TimeoutError:
            raise Silent from None
        except (OSError, HTTPException) as error:
            raise lost.connection(self.address, error) from error
        if response.length:
            raise lost.connection(self.address, ConnectionResetError())

    def _within(
        self,
        connection: HTTPConnection,
        ask: Callable[[], Answer],
        seconds: float | None = None,
    ) -> Answer:
        """The whole of an exchange within `timeout` seconds; errors as Unreachable.

        All in one frame: the alarm may come at the very end, between two of them too.
        """
        seconds = seconds or self.timeout
        previous = signal.signal(signal.SIGALRM, _late)
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                return ask()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (OSError, HTTPException, UnicodeError) as error:
            connection.close()
            raise lost.connection(self.address, error, seconds) from error
        except BaseException:
            connection.close()
            raise
        finally:
            signal.signal(signal.SIGALRM, previous)

    def _connection(self, silence: float | None = None) -> HTTPConnection:
        """A new one, which bears so many silent seconds; `_within` bears fewer."""
        address, timeout = self.address, silence or self.timeout
        if address.socket:
            return _UnixConnection(address.socket, timeout)
        kind = HTTPSConnection if address.scheme == "https" else HTTPConnection
        return kind(address.host, address.port, timeout=timeout)


class _UnixConnection(HTTPConnection):
    """HTTP over the socket of a server on this machine."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _late(number: int, frame: object) -> None:
    raise TimeoutError


def _query(query: Query | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    encoded = urlencode(given, errors="surrogateescape", quote_via=quote)
    return f"?{encoded}" if given else ""
