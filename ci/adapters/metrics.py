"""What is counted for Prometheus, in a registry of its own.

Counters live as long as the process; what the history knows (builds by state, the
outbox) is handed over at each scrape instead, so that a restart does not forget it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
BUILD_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 2400, 3600, 7200)
HTTP_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 3, 30)

DeliveryOutcome = Literal["accepted", "ignored", "refused"]


class Metrics:
    """One object per server, handed to whatever has something to count."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._scrape = threading.Lock()
        ProcessCollector(registry=self.registry)
        Info("build_server", "The server.", registry=self.registry).info(
            {"version": version}
        )
        self._deliveries = Counter(
            "build_server_deliveries",
            "Webhook deliveries by what became of them.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("accepted", "ignored", "refused"):
            self._deliveries.labels(outcome)
        self._bad_signatures = Counter(
            "build_server_bad_signatures",
            "Webhook deliveries whose signature was missing or wrong.",
            registry=self.registry,
        )
        self._durations = Histogram(
            "build_server_build_duration_seconds",
            "How long finished builds took, by final state.",
            ["state"],
            buckets=BUILD_SECONDS,
            registry=self.registry,
        )
        self._http = Histogram(
            "build_server_http_request_duration_seconds",
            "Answers of the private application.",
            ["route", "method", "status"],
            buckets=HTTP_SECONDS,
            registry=self.registry,
        )
        self._builds = Gauge(
            "build_server_builds",
            "Builds in the history.",
            ["repo", "state"],
            registry=self.registry,
        )
        self._queued = self._gauge("queue_length", "Builds that wait.")
        self._running = self._gauge("running", "Builds that run.")
        self._backlog = self._gauge(
            "outbox_backlog", "Commit statuses that wait to be posted."
        )
        self._followers = self._gauge("log_followers", "Readers that follow a log.")

    def delivery(self, outcome: DeliveryOutcome, times: int = 1) -> None:
        """Count webhook requests."""
        self._deliveries.labels(outcome).inc(times)

    def bad_signature(self) -> None:
        """Count one delivery that nobody with the secret has sent."""
        self._bad_signatures.inc()

    def build_finished(self, state: str, seconds: float) -> None:
        """Count one finished build and its duration."""
        self._durations.labels(state).observe(seconds)

    def http_request(
        self, *, route: str, method: str, status: int, seconds: float
    ) -> None:
        """Count one answer; `route` is a pattern of the route table, never a path."""
        self._http.labels(route, method, str(status)).observe(seconds)

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """A gauge `build_server_<name>` whose value is asked for at each scrape."""
        self._gauge(name, help_text).set_function(read)

    def exposition(
        self,
        *,
        builds: Mapping[tuple[str, str], int],
        backlog: int,
        followers: int,
    ) -> bytes:
        """Everything in Prometheus' text format; `builds` is (repo, state) -> number.

        It reads /proc: call it in a thread. Send it with CONTENT_TYPE.
        """
        with self._scrape:
            self._builds.clear()
            for (repo, state), number in builds.items():
                self._builds.labels(repo, state).set(number)
            self._queued.set(_total(builds, "queued"))
            self._running.set(_total(builds, "running"))
            self._backlog.set(backlog)
            self._followers.set(followers)
            return generate_latest(self.registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"build_server_{name}", help_text, registry=self.registry)


def _total(builds: Mapping[tuple[str, str], int], state: str) -> int:
    return sum(number for (_, found), number in builds.items() if found == state)
