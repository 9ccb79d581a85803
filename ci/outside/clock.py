"""Whether our clock agrees with another one: one judgement for health and doctor."""

from __future__ import annotations

from datetime import UTC, datetime

from ci.models import Check

NAME = "clock"
# Certificates bear minutes; GitHub wants the times in an App's signature within one.
TOLERANCE = 30.0

FIX = (
    "have the clock set by the network: `timedatectl set-ntp true` "
    "(systemd-timesyncd); under WSL2, after sleep, `hwclock -s`"
)


def compared(skew: float | None, reference: str) -> Check:
    """`skew`: seconds by which the clock of `reference` is ahead; None: not known."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if skew is None:
        return Check(NAME, True, f"{now}; {reference} did not tell its own")
    if abs(skew) <= TOLERANCE:
        return Check(NAME, True, f"{now}, as at {reference}")
    way = "behind" if skew > 0 else "ahead of"
    return Check(NAME, False, f"{now} is {abs(skew):.0f} s {way} {reference}", FIX)
