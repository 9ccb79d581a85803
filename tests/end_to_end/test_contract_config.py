"""The configuration to the letter: each printed key and default, and what is refused."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ci.config import Settings, load
from ci.errors import ConfigurationError
from tests.end_to_end.server import World
from tests.end_to_end.test_running import run_cli

MIB, GIB = 1024**2, 1024**3
KEY = "build-server-1:" + "A" * 43 + "="
SECRET = "a-secret-of-more-than-sixteen"

# Every key there is, with the value it has when it is left out, or an example.
PRINTED = f"""\
state_dir  = "/var/lib/build-server"
public_url = "http://build-server:8000"
allowed_hosts = []

[listen]
public  = "127.0.0.1:8010"
private = "127.0.0.1:8000"

[github]
api_url             = "https://api.github.com"
webhook             = true
webhook_secret_file = "SECRETS/webhook"
token_file          = "SECRETS/github-token"
public_webhook_url  = ""
reconcile_every     = "10m"
status_context      = "build-server"

[api]
token_file = ""

[build]
parallel = 2
timeout = "2h"
silent_timeout = "20m"
log_limit = "64MiB"
eval_memory = "4GiB"
sandbox = true
nix = "nix"
keep = 3

[cache]
url        = "http://127.0.0.1:5000"
public_key = "{KEY}"
required   = false

[[repository]]
name     = "Bullish-Design/nix-terminal"
url      = "https://github.com/Bullish-Design/nix-terminal.git"
branches = ["dev"]
targets  = ["packages.*", "checks.*"]
policy   = "every"
max_commits_per_push = 100
skip_ci  = false
builder  = "nix"
flake_dir = "."
harness  = ""
import_from_derivation = false
"""
ONLY_A_NAME = '[[repository]]\nname = "Bullish-Design/nix-terminal"\n'
# Keys that the printed file sets although they are empty when left out.
EXAMPLES = {"webhook_secret_file", "token_file"}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir()
    for name in ("webhook", "webhook-secret"):
        (folder / name).write_text(SECRET + "\n")
    (folder / "github-token").write_text("github_pat_" + "1" * 30)
    return folder


def settings(folder: Path, text: str, *, credentials: Path | None = None) -> Settings:
    """What the server understands of a configuration file."""
    path = folder / "written.toml"
    path.write_text(text)
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)} if credentials else {}
    return load(path, environ=environ)


def test_the_printed_file_loads_and_prints_the_defaults(
    tmp_path: Path, secrets: Path
) -> None:
    whole = settings(tmp_path, PRINTED.replace("SECRETS", str(secrets)))
    short = settings(tmp_path, ONLY_A_NAME, credentials=secrets)
    assert whole.state_dir == short.state_dir == Path("/var/lib/build-server")
    assert whole.public_url == short.public_url == "http://build-server:8000"
    assert whole.allowed_hosts == short.allowed_hosts == ()
    assert whole.listen == short.listen
    assert str(short.listen.public) == "127.0.0.1:8010"
    assert str(short.listen.private) == "127.0.0.1:8000"
    printed, default = whole.github.model_dump(), short.github.model_dump()
    assert {k: printed[k] for k in printed.keys() - EXAMPLES} == {
        k: default[k] for k in printed.keys() - EXAMPLES
    }
    assert short.github.reconcile_every == 600
    assert whole.github.webhook_secret_file == (secrets / "webhook",)
    assert whole.api == short.api
    assert whole.build == short.build
    assert (short.build.timeout, short.build.silent_timeout) == (7200, 1200)
    assert (short.build.log_limit, short.build.eval_memory) == (64 * MIB, 4 * GIB)
    assert (short.build.parallel, short.build.keep, short.build.nix) == (2, 3, "nix")
    assert whole.cache is not None
    assert whole.cache.required is False
    assert short.cache is None
    assert whole.repositories == short.repositories


def test_every_printed_key_is_known_and_none_but_those(
    tmp_path: Path, secrets: Path
) -> None:
    document = tomllib.loads(PRINTED)
    known = Settings.model_json_schema(by_alias=True)
    tables = known["$defs"]
    names = {
        "listen": "Listen",
        "github": "Github",
        "api": "Api",
        "build": "BuildLimits",
        "cache": "Cache",
        "repository": "Repository",
    }
    # Printed as alternatives of other keys, and for the command builder.
    unprinted = {"github": {"app_id", "app_key_file"}}
    unprinted["repository"] = {"command", "network"}
    # Came later: every one has a default, so that the short file means the same.
    unprinted["github"] |= {"public_resolvers"}
    unprinted["build"] = {"command_memory", "processes"}
    unprinted["repository"] |= {"flake_update"}
    assert set(known["properties"]) == set(document) | {"disk", "notify", "retention"}
    for table, model in names.items():
        printed: dict[str, Any] = document[table]
        if table == "repository":
            (printed,) = document[table]
        expected = set(printed) | unprinted.get(table, set())
        assert set(tables[model]["properties"]) == expected, table


@pytest.mark.parametrize(
    ("written", "seconds"),
    [('"90s"', 90), ('"20m"', 1200), ('"1h30m"', 5400), ('"2d"', 172800), ("45", 45)],
)
def test_durations_as_people_write_them(
    tmp_path: Path, secrets: Path, written: str, seconds: float
) -> None:
    text = f"[build]\ntimeout = {written}\n{ONLY_A_NAME}"
    assert settings(tmp_path, text, credentials=secrets).build.timeout == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [('"64MiB"', 64 * MIB), ('"10MB"', 10**7), ('"1.5GiB"', 3 * GIB // 2), ("9", 9)],
)
def test_sizes_as_people_write_them(
    tmp_path: Path, secrets: Path, written: str, size: int
) -> None:
    text = f"[build]\nlog_limit = {written}\n{ONLY_A_NAME}"
    assert settings(tmp_path, text, credentials=secrets).build.log_limit == size


async def refusals(world: World, command: str, text: str) -> list[str]:
    """What a command says of a configuration, line by line; it must refuse it."""
    path = world.folder / "refused.toml"
    await asyncio.to_thread(path.write_text, text)
    code, out, err = await run_cli(world, command, "--config", str(path))
    assert (code, out) == (2, ""), (code, out, err)
    lines = err.splitlines()
    assert all(line.startswith("build-server: ") for line in lines), err
    return [line.removeprefix("build-server: ") for line in lines]


async def test_all_that_is_wrong_is_said_at_once_one_line_for_each_key(
    command_world: World,
) -> None:
    text = """\
unknown = 1
state_dir = "relative"
[listen]
public = "8010"
[github]
webhook = "yes"
reconcile_every = "soon"
[build]
paralel = 2
parallel = -1
timeout = "20 minutes"
log_limit = "64"
sandbox = 1
[cache]
public_key = "build-server-1:…"
[[repository]]
name = "no-owner"
policy = "newest"
branches = []
targets = "packages.*"
builder = "make"
flake_dir = "../up"
frob = true
[[repository]]
name = "o/n"
builder = "command"
[[repository]]
name = "O/N"
[[repository]]
branches = ["dev"]
"""
    wanted = {
        "unknown",
        "state_dir",
        "listen.public",
        "github.webhook",
        "github.reconcile_every",
        "build.paralel",
        "build.parallel",
        "build.timeout",
        "build.log_limit",
        "build.sandbox",
        "cache.public_key",
        "repository[0].name",
        "repository[0].policy",
        "repository[0].branches",
        "repository[0].targets",
        "repository[0].builder",
        "repository[0].flake_dir",
        "repository[0].frob",
        "repository[1].command",
        "repository[2].name",
        "repository[3].name",
    }
    lines = await refusals(command_world, "check-config", text)
    assert {line.partition(": ")[0] for line in lines} == wanted
    assert len(lines) == len(wanted)
    assert await refusals(command_world, "serve", text) == lines
    said = {line.partition(": ")[0]: line for line in lines}
    assert "build.parallel" in said["build.paralel"]
    assert '"20m"' in said["build.timeout"]
    assert '"64MiB"' in said["build.log_limit"]


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("github.webhook_secret_file", None),
        ("github.webhook_secret_file", ""),
        ("github.webhook_secret_file", "15-characters-x"),
        ("github.token_file", None),
        ("github.token_file", " \n"),
        ("github.token_file", "15-characters-x"),
        ("api.token_file", "15-characters-x"),
        ("api.token_file", None),
    ],
)
def test_missing_empty_and_short_secrets_are_refused_and_never_shown(
    tmp_path: Path, secrets: Path, key: str, content: str | None
) -> None:
    bad = tmp_path / "bad"
    if content is not None:
        bad.write_text(content)
    table, _, name = key.partition(".")
    text = f'[{table}]\n{name} = "{bad}"\n{ONLY_A_NAME}'
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path, text, credentials=secrets)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{key}: ")
    assert str(bad) in problem
    assert "15-characters" not in repr(caught.value) + str(caught.value)


async def test_a_secret_put_where_its_path_belongs_is_not_repeated(
    command_world: World,
) -> None:
    text = f'[github]\nwebhook_secret_file = "{SECRET}"\n{ONLY_A_NAME}'
    (line,) = await refusals(command_world, "check-config", text)
    assert line.startswith("github.webhook_secret_file: ")
    assert SECRET not in line


async def test_the_example_of_ten_lines_and_where_the_file_is_looked_for(
    command_world: World, secrets: Path
) -> None:
    path = command_world.folder / "ten-lines.toml"
    await asyncio.to_thread(path.write_text, ONLY_A_NAME)
    command_world.environ = {
        **command_world.environ,
        "BUILD_SERVER_CONFIG": str(path),
        "CREDENTIALS_DIRECTORY": str(secrets),
    }
    code, out, err = await run_cli(command_world, "check-config")
    assert (code, err) == (0, "")
    assert str(path) in out
    missing = str(path) + "-missing"
    code, _, err = await run_cli(command_world, "check-config", "--config", missing)
    assert code == 2
    assert missing in err
