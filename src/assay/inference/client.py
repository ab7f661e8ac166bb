"""Requests over HTTP that arrive: paced, sent again with back-off, told in one sentence when they do not.

What is sent again: a refused or lost connection, silence, an answer that is no JSON, and the statuses 408, 409, 425, 429 and
500 and above; after `Retry-After` where the server names it, else after a random time that doubles. Everything else is
the user's to mend and raised at once. The key goes from the environment into a header and nowhere else: redirects are not
followed, and it is struck out of whatever the server says.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx2
import tenacity

from assay.errors import ServerError
from assay.inference.server import KEY, Server

AGAIN = (408, 409, 425, 429)
FIRST, LONGEST = 0.5, 30.0
"""Seconds of the first back-off, and of the longest."""
PATIENCE = 300.0
"""Seconds that a server may ask us to wait."""
SAID = 200
"""Characters of a server's own words in a message."""


class Stopped(Exception):
    """Another request failed for good, or the user interrupted; this one is given up."""


class Unreachable(ServerError):
    """Another way of asking would not help: nobody answers, the key is refused, or there is no such model."""


class _Again(Exception):
    """A failure that may pass; `wait`: seconds that the server asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Client:
    """Of one server, for several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._key = key_of_environment()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=server.concurrency)
        timeout = httpx2.Timeout(server.timeout, connect=min(10.0, server.timeout))
        self._http = httpx2.Client(headers=headers, limits=limits, timeout=timeout, follow_redirects=False)
        self._pace, self._stop, self._met = _Pace(server.rate), threading.Event(), False

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that the server answers. Raises ServerError."""
        return self._send(lambda: self._http.post(f"{self.server.url}/{path}", json=dict(body)))

    def get(self, path: str) -> dict[str, Any]:
        """The same of a GET."""
        return self._send(lambda: self._http.get(f"{self.server.url}/{path}"))

    def stop(self) -> None:
        """Wait for nothing any more, in any thread."""
        self._stop.set()

    def close(self) -> None:
        """Give the connections back."""
        self.stop()
        self._http.close()

    def _send(self, request: Callable[[], httpx2.Response]) -> dict[str, Any]:
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.server.retries + 1),
            wait=_wait,
            retry=tenacity.retry_if_exception_type(_Again),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return tries(self._once, request)
        except _Again as error:
            times = f"{self.server.retries + 1} times" if self.server.retries else "once"
            raise Unreachable(
                f"The server {self.server.url} was asked {times} and {error}. Look after it, then run the same again: "
                "what it has answered is kept."
            ) from None

    def _once(self, request: Callable[[], httpx2.Response]) -> dict[str, Any]:
        self._sleep(self._pace.next())
        try:
            response = request()
        except httpx2.TimeoutException:
            raise _Again(f"did not answer within {self.server.timeout:g} seconds") from None
        except httpx2.TransportError as error:
            why = f"cannot be reached ({self._harmless(str(error) or type(error).__name__)})"
            if not self._met and isinstance(error, httpx2.ConnectError):  # a wrong address does not get better
                raise Unreachable(f"The server {self.server.url} {why}. Start it, or correct the URL.") from None
            raise _Again(why) from None
        except httpx2.HTTPError as error:
            raise ServerError(f"The server {self.server.url}: {self._harmless(str(error))}") from None
        self._met = True
        return self._read(response)

    def _read(self, response: httpx2.Response) -> dict[str, Any]:
        status = response.status_code
        if status in AGAIN or status >= 500:
            wait = _seconds(response.headers.get("retry-after"))
            if wait is not None and wait > PATIENCE:
                raise Unreachable(
                    f"The server {self.server.url} asks to be left alone for {wait:,.0f} seconds (status {status}). Run the "
                    "same again then: what it has answered is kept."
                )
            if wait is not None:
                self._pace.hold(wait)
            raise _Again(f"answered with status {status}: {self._words(response)}", wait)
        if status != 200:
            kind = Unreachable if status in (401, 403, 404, 405) or status < 400 else ServerError
            raise kind(self._refusal(status, self._words(response)))
        try:
            answer = response.json()
        except ValueError:
            raise _Again(f"answered with what is no JSON: {self._harmless(response.text)!r}") from None
        if not isinstance(answer, dict):
            raise _Again(f"answered with JSON that is no object: {self._harmless(response.text)!r}")
        return cast(dict[str, Any], answer)

    def _refusal(self, status: int, words: str) -> str:
        """What a status that stays means."""
        told = f"The server {self.server.url} refuses (status {status}: {words})."
        if status in (401, 403):
            held = "does not fit" if self._key else "is not set"
            return f"{told} It wants a key: the environment variable {KEY} {held}."
        if status in (404, 405) or 300 <= status < 400:
            return (
                f"{told} Expected the interface's URL, which mostly ends in /v1, and a model that the server has; "
                f"'{self.server.model}' was asked for."
            )
        return told

    def _words(self, response: httpx2.Response) -> str:
        """What the server says of an error."""
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            body: Any = response.json()
            error = body.get("error", body.get("detail", body.get("message", body)))
            said: Any = cast(dict[str, Any], error).get("message", error) if isinstance(error, dict) else error
            return self._harmless(said if isinstance(said, str) else json.dumps(said))
        return self._harmless(response.text)

    def _harmless(self, text: str) -> str:
        """On one line, short, without the key."""
        hidden = text.replace(self._key, "[key]") if self._key else text
        line = " ".join(hidden.split())
        return line if len(line) <= SAID else f"{line[:SAID]}..."

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds) if seconds > 0 else self._stop.is_set():
            raise Stopped


class _Pace:
    """When the next request may go: at most `rate` a minute, and none while the server asks us to wait."""

    def __init__(self, rate: float | None) -> None:
        self._gap, self._next, self._lock = 60.0 / rate if rate else 0.0, 0.0, threading.Lock()

    def next(self) -> float:
        """Seconds until the caller's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap if self._gap else self._next
            return turn - now

    def hold(self, seconds: float) -> None:
        """Nobody for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def key_of_environment() -> str:
    """The key, or nothing. Raises ServerError for one that cannot stand in a header; it is not shown."""
    key = os.environ.get(KEY, "").strip()
    if any(not " " < letter <= "~" for letter in key):
        raise ServerError(f"The key in {KEY} has a space or a character that no key has; set it again.")
    return key


_backoff = tenacity.wait_random_exponential(multiplier=FIRST, max=LONGEST)


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asked for, else a random time below 0.5, 1, 2, ... seconds."""
    error = None if state.outcome is None else state.outcome.exception()
    asked = error.wait if isinstance(error, _Again) else None
    return _backoff(state) if asked is None else asked


def _seconds(header: str | None) -> float | None:
    """Of `Retry-After`: seconds, or a date."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
