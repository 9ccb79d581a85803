"""The configuration: what it means, what is refused, in which words, and what is kept
secret."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings as hypothesis_settings, strategies as st

from ci import config
from ci.config import names, units
from ci.config.settings import documented_keys
from ci.errors import ConfigurationError
from ci.text import printable

MINIMAL = '[[repository]]\nname = "owner/name"\n'
CANARY = "ghp_c4n4ryC4N4RYc4n4ryC4N4RY"
KEY = "build-server-1:" + "A" * 43 + "="


def problems(toml: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        config.parse(tomllib.loads(toml))
    return list(caught.value.problems)


def test_a_name_is_enough() -> None:
    settings = config.parse(tomllib.loads(MINIMAL))
    (repository,) = settings.repositories
    assert settings.state_dir == Path("/var/lib/build-server")
    assert settings.public_url == "http://build-server:8000"
    assert (settings.listen.public.host, settings.listen.public.port) == (
        "127.0.0.1",
        8010,
    )
    assert str(settings.listen.private) == "127.0.0.1:8000"
    assert settings.github.webhook_secret_file == ()
    assert settings.github.reconcile_every == 600
    assert settings.build.timeout == 7200
    assert settings.build.log_limit == 64 * 1024**2
    assert settings.build.eval_memory == 4 * 1024**3
    assert settings.cache is None
    assert repository.url == "https://github.com/owner/name.git"
    assert repository.branches == ("dev",)
    assert repository.targets == ("packages.*", "checks.*")


def test_with_the_harness_modules_are_what_is_built() -> None:
    named = {"name": "o/a", "harness": "home-manager"}
    mixed = {**named, "name": "o/b", "targets": ["homeModules.x", "checks.*"]}
    settings = config.parse({"repository": [named, mixed]})
    assert [each.harness for each in settings.repositories] == ["home-manager"] * 2
    assert settings.repositories[0].targets == ("homeModules.*",)
    assert settings.repositories[1].targets == ("homeModules.x", "checks.*")


def test_every_key_can_be_said(tmp_path: Path) -> None:
    settings = config.parse(
        tomllib.loads(
            f"""
            state_dir = "/srv/ci"
            public_url = "https://ci.tail.ts.net/"
            allowed_hosts = ["CI.local", "100.64.0.1:8000", "[fd7a::1]"]
            [listen]
            public = "[::1]:0"
            private = "unix:/run/build-server/private.sock"
            [github]
            api_url = "http://127.0.0.1:9/api/v3/"
            webhook_secret_file = ["/run/secrets/new", "/run/secrets/old"]
            app_id = 123456
            app_key_file = "/run/secrets/app.pem"
            public_webhook_url = "https://ci.tail.ts.net/webhook"
            reconcile_every = 90
            [build]
            timeout = "1h30m"
            silent_timeout = "500ms"
            log_limit = "10MB"
            eval_memory = 1048576
            [cache]
            url = "http://cache:5000/"
            public_key = "{KEY}"
            [[repository]]
            name = "o/a"
            url = "git@example.org:o/a.git"
            branches = ["main", "feature/é"]
            targets = ['homeConfigurations."a@b.c"', "packages.x86_64-linux.*"]
            [[repository]]
            name = "o/b"
            url = "{tmp_path}"
            builder = "command"
            command = ["make", "ci"]
            network = true
            flake_dir = "./nix/"
            """
        )
    )
    assert settings.public_url == "https://ci.tail.ts.net"
    assert settings.allowed_hosts == ("ci.local", "100.64.0.1:8000", "[fd7a::1]")
    assert str(settings.listen.public) == "[::1]:0"
    assert settings.listen.private.path == Path("/run/build-server/private.sock")
    assert settings.github.api_url == "http://127.0.0.1:9/api/v3"
    assert settings.github.webhook_secret_file == (
        Path("/run/secrets/new"),
        Path("/run/secrets/old"),
    )
    assert settings.github.app_id == "123456"
    assert settings.github.reconcile_every == 90
    assert settings.build.timeout == 5400
    assert settings.build.silent_timeout == 0.5
    assert settings.build.log_limit == 10_000_000
    assert settings.build.eval_memory == 1024**2
    assert settings.cache is not None
    assert settings.cache.url == "http://cache:5000"
    assert settings.repositories[1].command == ("make", "ci")
    assert settings.repositories[1].flake_dir == "nix"


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            '[build]\ntimeout = "20 parsecs"',
            'build.timeout: "20 parsecs" is not a duration; write e.g. "20m" or "2h"',
        ),
        (
            '[build]\ntiemout = "2h"',
            "build.tiemout: unknown key; did you mean build.timeout?",
        ),
        ('timeout = "2h"', "timeout: unknown key; did you mean build.timeout?"),
        (
            f'[github]\ntoken = "{CANARY}"',
            "github.token: unknown key; did you mean github.token_file, the path of a "
            "file that holds it?",
        ),
        ("[build]\nsandbox = 1", "build.sandbox: must be true or false"),
        ('[build]\nparallel = "2"', "build.parallel: must be a whole number"),
        ("[build]\nparallel = -1", "build.parallel: must be 0 or more"),
        ("[build]\nkeep = 0", "build.keep: must be 1 or more"),
        ("[build]\ntimeout = 0", "build.timeout: 0 must be more than nothing"),
        ("[build]\ntimeout = nan", "build.timeout: nan must be more than nothing"),
        ("[build]\ntimeout = true", "build.timeout: true is not a duration"),
        ('[build]\nlog_limit = "64M"', 'build.log_limit: "64M" is not a size'),
        ('[build]\nnix = "./nix"', 'build.nix: "./nix" is not a program'),
        ('state_dir = "state"', "state_dir: must be an absolute path"),
        ("build = 3", "build: must be a table of keys; write [build] above them"),
        ('public_url = "ci:8000"', "public_url: must be an http or https URL"),
        ('public_url = "ftp://ci"', "public_url: must be an http or https URL"),
        ('public_url = "http://ci/x"', "public_url: the pages live at the root"),
        ('allowed_hosts = ["*.x"]', 'allowed_hosts[0]: "*.x" is not a host name'),
        ('[listen]\npublic = ":8010"', 'listen.public: ":8010" is not an address'),
        ('[listen]\npublic = "a:66000"', 'listen.public: "a:66000" is not an address'),
        ('[listen]\npublic = "::1:80"', 'listen.public: "::1:80" is not an address'),
        (
            f'[listen]\npublic = "unix:/{"x" * 120}"',
            "listen.public: the path of a unix socket has at most 107 bytes",
        ),
        (
            '[listen]\npublic = "127.0.0.1:8000"',
            "listen.private: is the same as listen.public",
        ),
        (
            '[github]\napi_url = "http://api.example.org"',
            "github.api_url: http would be readable on the way",
        ),
        (
            '[github]\nwebhook_secret_file = ["/a/a", "/b/b", "/c/c"]',
            "github.webhook_secret_file: takes one path, or a list of at most two",
        ),
        ("[github]\napp_id = -1", "github.app_id: must be the App's id"),
        (
            '[github]\napp_key_file = "/run/secrets/app"',
            "github.app_key_file: belongs to a GitHub App; write github.app_id too",
        ),
        (
            '[github]\napp_id = 7\ntoken_file = "/run/secrets/token"',
            "github.app_id: github.token_file is set too; keep one of the two",
        ),
        ('[github]\nstatus_context = ""', "github.status_context: must be one line"),
        ("[cache]", "cache.public_key: is missing; write public_key = …"),
        (
            '[cache]\npublic_key = "A"',
            "cache.public_key: must be NAME:BASE64 with 32 bytes",
        ),
        (
            f'[cache]\npublic_key = "k-1:{"A" * 86}=="',
            "cache.public_key: is a secret key; make a new pair",
        ),
    ],
)
def test_a_problem_is_one_line_that_says_what_to_write(toml: str, line: str) -> None:
    (found,) = problems(f"{toml}\n{MINIMAL}")
    assert found.startswith(line)
    assert found.isprintable()


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        ('name = "a"', 'name: "a" is not owner/name; write e.g. "NixOS/nixpkgs"'),
        ('name = "https://github.com/a/b"', 'name: "https://github.com/a/b" is not'),
        ('name = "a/b.git"', 'name: "a/b.git" is not owner/name'),
        ('name = "a/.."', 'name: "a/.." is not owner/name'),
        ('url = "http://github.com/a/b"', "url: git cannot be pointed there"),
        ('url = "ext::sh -c x"', "url: git cannot be pointed there"),
        ('url = "--upload-pack=x"', "url: git cannot be pointed there"),
        ('url = "ssh://-oProxyCommand=x/y"', "url: is not a URL"),
        ('url = "git@-oProxyCommand=x:y"', "url: git cannot be pointed there"),
        ('url = "file://host/path"', "url: git cannot be pointed there"),
        (
            f'url = "https://x:{CANARY}@github.com/a/b"',
            "url: a URL must not hold a credential",
        ),
        (
            f'url = "https://{CANARY}@github.com/a/b"',
            "url: a URL must not hold a credential",
        ),
        ("branches = []", "branches: must name at least one"),
        (
            'branches = "dev"',
            'branches: must be a list in brackets, e.g. branches = ["',
        ),
        ('branches = ["dev", "dev"]', "branches: names something twice"),
        ('branches = ["a..b"]', 'branches[0]: "a..b" is not a branch name'),
        ('branches = ["feat/*"]', 'branches[0]: "feat/*" is a pattern'),
        (
            'branches = ["refs/heads/dev"]',
            'branches[0]: "refs/heads/dev" is a ref; write the branch: "dev"',
        ),
        ("targets = []", "targets: must name at least one"),
        ('targets = [".#x"]', 'targets[0]: ".#x" is not a target pattern'),
        ('targets = ["*"]', 'targets[0]: "*" is not a target pattern'),
        ('policy = "some"', 'policy: must be "every" or "latest"'),
        ("max_commits_per_push = 0", "max_commits_per_push: must be 1 or more"),
        ('builder = "make"', 'builder: must be "nix" or "command"'),
        ('builder = "command"', 'command: builder = "command" needs it'),
        ('command = ["make"]', 'command: is never run; write builder = "command"'),
        ('flake_dir = "../x"', 'flake_dir: "../x" is not a folder inside'),
        ('flake_dir = "/x"', 'flake_dir: "/x" is not a folder inside'),
        (
            'builder = "command"\ncommand = ["make"]\nharness = "home-manager"',
            'harness: is for builder = "nix" only',
        ),
        ('harness = "x"', 'harness: "x" is no harness'),
        ("network = true", 'network: is for builder = "command" only'),
        ("brnches = []", "brnches: unknown key; did you mean repository[0].branches?"),
    ],
)
def test_a_problem_of_a_repository_names_its_place(toml: str, line: str) -> None:
    name = "" if toml.startswith("name") else 'name = "a/b"\n'
    (found,) = problems(f"[[repository]]\n{name}{toml}")
    assert found.startswith(f"repository[0].{line}")
    assert found.isprintable()
    assert CANARY not in found


def test_repositories_are_counted_and_compared_as_github_does() -> None:
    (none,) = problems("")
    assert none.startswith("repository: no repository is named")
    (single,) = problems('[repository]\nname = "a/b"')
    assert single.startswith("repository: write [[repository]]")
    (twice,) = problems('[[repository]]\nname="a/b"\n[[repository]]\nname="A/B"')
    assert twice.startswith('repository[1].name: "A/B" is used twice')


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        """
        state_dir = "x"
        [github]
        webhook_secret_file = "/run/no/such/webhook"
        [build]
        timeout = "soon"
        tiemout = "2h"
        [api]
        token_file = "/run/no/such/token"
        [[repository]]
        name = "a/b"
        [[repository]]
        name = "a/b"
        builder = "command"
        """
    )
    with pytest.raises(ConfigurationError) as caught:
        config.load(path, environ={})
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert sorted(keys) == [
        "api.token_file",
        "build.tiemout",
        "build.timeout",
        "github.webhook_secret_file",
        "repository[1].command",
        "repository[1].name",
        "state_dir",
    ]


# -- any value for any key ---------------------------------------------------------------

KEYS = sorted(path for path, _ in documented_keys())
VALUES = st.recursive(
    st.text(max_size=30)
    | st.integers(-(2**70), 2**70)
    | st.booleans()
    | st.floats()
    | st.sampled_from(["", "20m", "/x", "http://[", "unix:", "a/b", "x:0", "https://"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(key=st.sampled_from(KEYS), value=VALUES)
@hypothesis_settings(max_examples=400, deadline=None)
def test_any_value_is_accepted_or_refused_in_printable_lines(
    key: str, value: object
) -> None:
    table, _, leaf = key.rpartition(".")
    document: dict[str, Any] = {"repository": [{"name": "a/b"}]}
    if table == "repository":
        document["repository"][0][leaf] = value
    elif table:
        document[table] = {leaf: value}
    else:
        document[leaf] = value
    lines = _problems_of(document)
    assert all(line.isprintable() and ": " in line for line in lines)


def _problems_of(document: Mapping[str, object]) -> tuple[str, ...]:
    try:
        config.parse(document)
    except ConfigurationError as error:
        return error.problems or ("none was told",)
    return ()


@given(hours=st.integers(0, 99), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    expected = hours * 3600 + minutes * 60 + seconds
    assert units.duration(f"{hours}h{minutes}m{seconds}s") == expected
    assert units.duration(f"{hours}h {minutes}m {seconds}s") == expected
    assert units.duration(expected) == expected


def test_sizes_know_both_thousands() -> None:
    assert units.size("512KiB") == 512 * 1024
    assert units.size("1.5 GB") == 1_500_000_000
    assert units.size("4GiB") == 4 * 1024**3
    assert units.size("7B") == 7


@given(st.text(st.sampled_from("ab/.@{~^: *[\\\x7f-") | st.characters(), max_size=8))
@example("@")
@example("a.lock")
@example("a.lock/b")
@example("a/.b")
@example("a//b")
@example("a@{b")
@example("a.")
@example("/a")
@example("a/")
@example("-a")
@example("HEAD")
@hypothesis_settings(max_examples=150, deadline=None)
def test_branch_names_are_those_of_git(name: str) -> None:
    try:
        names.branch_name(name)
        ours = True
    except ValueError:
        ours = False
    if "\0" in name or not _encodes(name) or name.startswith("refs/"):
        return
    # `--branch` expands @{-1}, so the rule is asked for the ref, and the hyphen apart.
    argv = ["git", "check-ref-format", f"refs/heads/{name}"]
    git = subprocess.run(argv, check=False).returncode == 0
    assert ours == (git and not name.startswith("-") and name != "@")


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_text_for_terminals_has_no_controls() -> None:
    assert printable("a\nb\x1b[31m\u202e\ud800é") == "a\\nb\\x1b[31m\\u202e\\ud800é"
