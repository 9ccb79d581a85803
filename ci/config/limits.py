"""Keys that bound what builds, disks and the history may take, the cache's and notify's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from ci.config.fields import (
    Duration,
    Program,
    PublicKey,
    SecretFile,
    Size,
    Table,
    key,
    web_url,
)

Occasions = tuple[Literal["broken", "fixed", "trouble"], ...]
SHORTEST_MEMORY = 4 * 86400.0


class BuildLimits(Table):
    parallel: StrictInt = key(
        2,
        "Builds at the same time. `0` accepts and records pushes but builds nothing.",
        ge=0,
    )
    timeout: Duration = key(
        "2h",
        "Longest working time of one attempt; beyond it the build failed. Waiting for "
        "remotes, inputs and the cache does not count.",
    )
    silent_timeout: Duration = key(
        "20m", "Longest time without a line of log; beyond it the build failed."
    )
    log_limit: Size = key(
        "64MiB", "Largest log of one attempt; what follows is left out, with a mark."
    )
    eval_memory: Size = key("4GiB", "Memory that one evaluation may take.")
    command_memory: Size = key("8GiB", "Memory that one command may take.")
    processes: StrictInt = key(
        4096, "Processes that one evaluation or command may have at a time.", ge=64
    )
    sandbox: StrictBool = key(
        True,
        "Evaluate, and run commands, under bubblewrap; without a working bubblewrap "
        "the server does not start. `false` gives that protection up.",
    )
    nix: Program = key(
        "nix",
        "The `nix` program, by name or absolute path; `nix-daemon` is looked for "
        "beside it.",
    )
    keep: StrictInt = key(
        3,
        "Green results kept from garbage collection, per branch and target.",
        ge=1,
    )


class Cache(Table):
    url: Annotated[str, web_url("http://127.0.0.1:5000", plain_http=True)] = key(
        "http://127.0.0.1:5000", "Address of the Harmonia that serves this store."
    )
    public_key: PublicKey = Field(
        description="The key that clients trust, `NAME:BASE64`. No default: a cache "
        "without it cannot be checked.",
    )
    required: StrictBool = key(
        False,
        "When an output still cannot be fetched after half a minute: `true` makes the "
        "build an `error` that is retried, `false` only says so in its summary.",
    )


class DiskLimits(Table):
    state_low: Size = key(
        "512MiB",
        "With less room than this for `state_dir` no build begins; pushes are still "
        "recorded.",
    )
    store_low: Size = key(
        "1GiB", "With less room than this for the Nix store no build begins."
    )
    ballast: Size = key(
        "64MiB",
        "Size of a file that is kept in `state_dir` only to be given up when the disk "
        "is full: without room SQLite cannot even delete.",
    )


class Notify(Table):
    urls_file: SecretFile = key(
        "",
        "File with the addresses that messages go to: URLs of Apprise, one per line "
        "(`ntfy://…`, `mailto://…`, `json://…`), or a configuration of Apprise's. Empty: "
        "the credential `notify-urls`, else nobody is told.",
    )
    on: Occasions = key(
        ["broken", "fixed", "trouble"],
        "What is told: a watched branch is `broken`, or `fixed` again; `trouble` of the "
        "service itself, and its end.",
    )
    trouble_after: Duration = key(
        "5m",
        "How long a check of `/health` must fail before it is told as trouble, and be "
        "well again before its end is.",
    )


class Retention(Table):
    logs_for: Duration = key("180d", "How long logs of ended builds are kept.")
    logs_size: Size = key(
        "8GiB", "How much all logs may take together; the oldest go first."
    )
    builds: StrictInt = key(
        100_000, "Builds kept in the history; the oldest go first.", ge=100
    )
    deliveries_for: Duration = key(
        "90d",
        "How long deliveries, requests and posted statuses are remembered. At least "
        "four days: GitHub can deliver again for three.",
    )

    @field_validator("deliveries_for")
    @classmethod
    def _outlives_redelivery(cls, seconds: float) -> float:
        if seconds < SHORTEST_MEMORY:
            raise ValueError(
                "must be four days or more: what GitHub can deliver again for three "
                'days must be recognised; write e.g. "90d"'
            )
        return seconds
