"""Every key of the configuration file: its type, its default and what it means.

The descriptions are the reference in docs/configuration.md, word for word (a test
compares them). The types are those of fields.py; the package itself reads the file.
Durations are float seconds and sizes int bytes once validated; no secret is ever a
value here, only the path of the file that holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from ci.config import units
from ci.config.fields import (
    Address,
    AppId,
    Branches,
    Context,
    Folder,
    HostName,
    Interval,
    Patterns,
    RepositoryName,
    Resolvers,
    SecretFile,
    SecretFiles,
    StateDir,
    Table,
    key,
    tables,
    web_url,
)
from ci.config.limits import BuildLimits, Cache, DiskLimits, Notify, Retention
from ci.text import quoted

HOME_MANAGER = "home-manager"


class Listen(Table):
    public: Address = key(
        "127.0.0.1:8010",
        "Where `POST /webhook` is served, the only route the internet may reach: "
        "`host:port` or `unix:/path`. A socket that systemd passes under the name "
        "`public` is taken instead.",
    )
    private: Address = key(
        "127.0.0.1:8000",
        "Where pages and API are served, for the tailnet only; likewise, and with the "
        "name `private`.",
    )

    @field_validator("private")
    @classmethod
    def _differs(cls, private: units.Address, info: ValidationInfo) -> units.Address:
        same = private == info.data.get("public")
        if same and (private.path is not None or private.port != 0):
            raise ValueError(
                "is the same as listen.public; the internet must not reach the pages: "
                'write another one, e.g. "127.0.0.1:8000"'
            )
        return private


class Github(Table):
    api_url: Annotated[str, web_url("https://api.github.com")] = key(
        "https://api.github.com",
        "GitHub's REST API; `https://HOST/api/v3` for GitHub Enterprise Server. Plain "
        "http only to this machine.",
    )
    webhook: StrictBool = key(
        True,
        "Take webhooks; needs a webhook secret. `false`: no public listener at all; "
        "commits are found by looking every `reconcile_every`.",
    )
    webhook_secret_file: SecretFiles = key(
        "",
        "File with the webhook's secret (16 characters or more), or a list of two "
        "while the secret is being changed. Empty: the credentials `webhook-secret` "
        "and `webhook-secret-2`.",
    )
    token_file: SecretFile = key(
        "",
        "File with a fine-grained token (contents: read, commit statuses: write). "
        "Empty: the credential `github-token`. Without a token statuses wait in the "
        "outbox and private repositories cannot be fetched.",
    )
    app_id: AppId = key(
        "",
        "Id or client id of a GitHub App, in place of a token.",
    )
    app_key_file: SecretFile = key(
        "",
        "File with the private key (PEM) of that App. Empty: the credential "
        "`github-app-key`.",
    )
    public_webhook_url: Annotated[
        str, web_url("https://host.tailnet.ts.net/webhook", optional=True)
    ] = key(
        "",
        "The webhook's address as GitHub sees it. When set, the server asks itself "
        "there every minute, as the internet would, and so does `doctor`.",
    )
    public_resolvers: Resolvers = key(
        ["1.1.1.1", "9.9.9.9"],
        "DNS servers that find the host of `public_webhook_url`, as `address` or "
        "`address:port`: the tailnet's own DNS knows the name even while Funnel is down.",
    )
    reconcile_every: Interval = key(
        "10m",
        "How often the branches are compared with the remote, whatever webhooks came; "
        'also at the start and on wake. `"never"`: not at all.',
    )
    status_context: Context = key(
        "build-server",
        "Name of the commit status. Branch protection refers to it: keep it.",
    )

    @field_validator("app_id")
    @classmethod
    def _one_credential(cls, app_id: str, info: ValidationInfo) -> str:
        if app_id and info.data.get("token_file") is not None:
            raise ValueError("github.token_file is set too; keep one of the two")
        return app_id

    @field_validator("app_key_file")
    @classmethod
    def _has_app(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is not None and info.data.get("app_id") == "":
            raise ValueError("belongs to a GitHub App; write github.app_id too")
        return path


class Api(Table):
    token_file: SecretFile = key(
        "",
        "File with a token (16 characters or more). When there is one, every POST to "
        "the private address needs `Authorization: Bearer TOKEN`. Empty: the "
        "credential `api-token`, else no token is asked for.",
    )


class Repository(Table):
    name: RepositoryName = Field(
        description="`owner/name` on GitHub. The only key without a default.",
    )
    url: str = key(
        "",
        "Where to fetch from: https, ssh, `git@host:path`, `file://` or an absolute "
        "path. Empty: `https://github.com/NAME.git`.",
    )
    branches: Branches = key(
        ["dev"], "Branches to build, by name; other branches are recorded as ignored."
    )
    targets: Patterns = key(
        ["packages.*", "checks.*"],
        "Flake attributes to build; the system is filled in. Names with dots in "
        'quotes: `homeConfigurations."alice@laptop.local"`.',
    )
    policy: Literal["every", "latest"] = key(
        "every",
        "`every` commit, or only the `latest` head: then a newer head cancels queued "
        "older ones.",
    )
    max_commits_per_push: StrictInt = key(
        100, "Of a longer push only the newest are built, the rest skipped.", ge=1
    )
    skip_ci: StrictBool = key(
        False, "Honour `[skip ci]` and its like in commit messages."
    )
    builder: Literal["nix", "command"] = key(
        "nix", "`nix` builds the flake's targets, `command` runs `command`."
    )
    command: tuple[str, ...] = key(
        [],
        'The program and its arguments, e.g. `["make", "ci"]`, run in a writable '
        'checkout. For `builder = "command"`, and needed there.',
    )
    flake_dir: Folder = key(".", "Folder of `flake.nix` inside the repository.")
    harness: str = key(
        "",
        '`"home-manager"` for flakes that export modules only: each of `homeModules` is '
        "built as a home that imports it, and `targets` is "
        '`["homeModules.*"]` unless written.',
    )
    import_from_derivation: StrictBool = key(
        False, "Let the evaluation build what it imports."
    )
    flake_update: Interval = key(
        "never",
        "How often the head of the first branch is built once more with every input of "
        'its lock updated, as by `nix flake update`; e.g. `"24h"`. For `builder = "nix"`.',
    )
    network: StrictBool = key(
        False,
        'Give the command the network. For `builder = "command"`, and only the '
        "sandbox can take it away.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str, info: ValidationInfo) -> str:
        if url == "":
            return f"https://github.com/{info.data.get('name', '')}.git"
        return units.repository_url(url)

    @field_validator("command")
    @classmethod
    def _command(
        cls, command: tuple[str, ...], info: ValidationInfo
    ) -> tuple[str, ...]:
        builder = info.data.get("builder")
        if builder == "command" and not (command and command[0]):
            raise ValueError(
                'builder = "command" needs it; write e.g. command = ["make", "ci"]'
            )
        if builder == "nix" and command:
            raise ValueError('is never run; write builder = "command" too')
        if any("\0" in argument for argument in command):
            raise ValueError("no argument may hold a NUL character")
        return command

    @field_validator("harness")
    @classmethod
    def _harness(cls, harness: str, info: ValidationInfo) -> str:
        if harness not in ("", HOME_MANAGER):
            raise ValueError(
                f'{quoted(harness)} is no harness; write "home-manager" or ""'
            )
        if harness and info.data.get("builder") == "command":
            raise ValueError('is for builder = "nix" only; leave one of the two out')
        return harness

    @model_validator(mode="before")
    @classmethod
    def _harness_targets(cls, table: object) -> object:
        if isinstance(table, dict) and table.get("harness") == HOME_MANAGER:
            return {"targets": ["homeModules.*"], **table}
        return table

    @field_validator("flake_update")
    @classmethod
    def _flake_update(cls, every: float, info: ValidationInfo) -> float:
        if every != math.inf and info.data.get("builder") == "command":
            raise ValueError('is for builder = "nix" only; leave one of the two out')
        return every

    @field_validator("network")
    @classmethod
    def _network(cls, network: bool, info: ValidationInfo) -> bool:
        if network and info.data.get("builder") == "nix":
            raise ValueError(
                'is for builder = "command" only; Nix gives builds the network where '
                "their hash is fixed"
            )
        return network


class Settings(Table):
    """The whole file, validated. Make one with ci.config.load or ci.config.parse."""

    state_dir: StateDir = key(
        "/var/lib/build-server",
        "Where everything is kept: database, logs, mirrors. One server at a time.",
    )
    public_url: Annotated[str, web_url("http://build-server:8000", plain_http=True)] = (
        key(
            "http://build-server:8000",
            "Address of the pages as people open them (scheme, host, port): it is the "
            "link of each commit status.",
        )
    )
    allowed_hosts: tuple[HostName, ...] = key(
        [],
        "Further host names under which the pages may be opened. That of `public_url` "
        "and `localhost` always may.",
    )
    listen: Listen = key({}, "Addresses to listen on.")
    github: Github = key({}, "GitHub: webhooks, statuses, credentials.")
    api: Api = key({}, "Who may trigger, cancel and retry.")
    build: BuildLimits = key({}, "How builds are run, and their limits.")
    cache: Cache | None = Field(
        default=None,
        description="The binary cache that clients use. Without this table nothing is "
        "asked of a cache.",
    )
    disk: DiskLimits = key({}, "When the disk is too full to build.")
    retention: Retention = key(
        {},
        "What is removed, and when. Never the last build of a branch, nor a pinned one.",
    )
    notify: Notify = key({}, "Who is told when a branch breaks, and of what else.")
    repositories: Annotated[tuple[Repository, ...], BeforeValidator(tables)] = key(
        [], "What to build; at least one.", alias="repository"
    )

    @field_validator("public_url")
    @classmethod
    def _no_path(cls, url: str) -> str:
        if url.count("/") > 2:
            raise ValueError(
                "the pages live at the root; leave out everything after host and port"
            )
        return url


def documented_keys() -> Iterator[tuple[str, FieldInfo]]:
    """Every key as (path, field): `build`, `build.parallel`, …, tables first."""
    tables: dict[str, type[Table]] = {
        "listen": Listen,
        "github": Github,
        "api": Api,
        "build": BuildLimits,
        "cache": Cache,
        "disk": DiskLimits,
        "retention": Retention,
        "notify": Notify,
        "repository": Repository,
    }
    for name, field in Settings.model_fields.items():
        path = field.alias or name
        yield path, field
        if path in tables:
            for leaf, inner in tables[path].model_fields.items():
                yield f"{path}.{leaf}", inner
