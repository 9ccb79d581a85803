"""The configuration that `init` writes is good, whole and says only what is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ci.config import Settings
from ci.config.settings import documented_keys
from ci.errors import ConfigurationError
from ci.init import files, guess
from ci.init.document import read, render
from ci.init.places import places
from tests.fakes.nix_stores import NixProgram

LEAST = {"repository.name": "octo-org/hello"}


def test_every_key_stands_there_with_its_meaning() -> None:
    text = render(LEAST)
    for path, field in documented_keys():
        name = path.rpartition(".")[2]
        assert re.search(rf"^(# )?\[?\[?{name}\b", text, re.M), path
        meaning = (field.description or "")[:30]
        assert meaning.split("\n")[0][:20] in text.replace("\n# ", " "), path


def test_what_is_commented_out_is_the_default() -> None:
    """Taking every `# ` away changes nothing; a cache, which has no default, aside."""
    text = render(LEAST)
    cache = text[text.index("# [cache]") : text.index("# When the disk")]
    bare = re.sub(r"^# (?=\w+ = )", "", text.replace(cache, ""), flags=re.M)
    assert bare.count("\n# ") < text.count("\n# ") - 40
    assert read(bare) == read(text)


def test_the_cache_table_is_whole_once_there_is_a_key() -> None:
    key = "ci-1:" + "A" * 43 + "="
    cache = read(render({**LEAST, "cache.public_key": key})).cache
    assert cache is not None
    assert cache.public_key == key


@given(st.text(min_size=1, max_size=60))
def test_any_text_comes_back_as_it_was_or_is_refused(value: str) -> None:
    """A value can neither end its string nor begin another key."""
    try:
        settings = read(render({**LEAST, "github.status_context": value}))
    except ConfigurationError:
        return
    assert settings.github.status_context == value
    assert (
        settings.github.api_url
        == Settings.model_validate({"repository": [{"name": "o/n"}]}).github.api_url
    )


@pytest.mark.parametrize(
    ("root", "environ", "config", "state"),
    [
        (True, {}, "/etc/build-server/config.toml", "/var/lib/build-server"),
        (
            False,
            {"HOME": "/h"},
            "/h/.config/build-server/config.toml",
            "/h/.local/state/build-server",
        ),
        (
            False,
            {"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s"},
            "/c/build-server/config.toml",
            "/s/build-server",
        ),
        (
            True,
            {"BUILD_SERVER_CONFIG": "/x/y.toml"},
            "/x/y.toml",
            "/var/lib/build-server",
        ),
    ],
)
def test_places_fit_who_one_is(
    root: bool, environ: dict[str, str], config: str, state: str
) -> None:
    found = places(None, None, environ, root=root)
    assert (str(found.config), str(found.state_dir)) == (config, state)
    assert found.secrets == Path(config).parent / "secrets"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/octo-org/hello.git", "octo-org/hello"),
        ("https://mona:token@github.com/octo-org/hello", "octo-org/hello"),
        ("git@github.com:octo-org/hello.git", "octo-org/hello"),
        ("ssh://git@github.com/octo-org/hello.git", "octo-org/hello"),
        ("https://gitlab.com/octo-org/hello.git", None),
        ("https://evil.example/github.com/octo-org/hello", None),
        ("/srv/git/hello.git", None),
    ],
)
def test_the_repository_is_that_of_origin(
    tmp_path: Path, url: str, name: str | None
) -> None:
    for command in (["init", "-q"], ["remote", "add", "origin", url]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert guess.repository(tmp_path, {"PATH": "/usr/bin:/bin"}) == name


def test_without_programs_nothing_is_guessed(tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path)}
    assert guess.repository(tmp_path, empty) is None
    assert guess.tailnet_name(empty) is None


def test_nix_reads_the_key_of_the_cache(
    tmp_path: Path, nix_version: NixProgram
) -> None:
    path = tmp_path / "cache-key"
    made = files.make_cache_key(path, "ci.example.ts.net-1", None)
    assert made.made
    assert path.stat().st_mode & 0o777 == 0o600
    feature = ["--extra-experimental-features", "nix-command"]
    done = subprocess.run(
        [nix_version.program, *feature, "key", "convert-secret-to-public"],
        input=path.read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == made.public
    again = files.make_cache_key(path, "another-name", None)
    assert again == files.CacheKey(made.public, made=False)


def test_a_key_that_is_none_is_left_alone_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "cache-key"
    path.write_text("name:c2VjcmV0")
    with pytest.raises(files.InitError) as refused:
        files.make_cache_key(path, "name", None)
    assert "c2VjcmV0" not in str(refused.value)
    assert path.read_text() == "name:c2VjcmV0"


def test_half_a_file_of_a_run_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".webhook-secret.new").write_text("ha")
    assert files.make_file(tmp_path / "webhook-secret", "whole\n", 0o600)
    assert not files.make_file(tmp_path / "webhook-secret", "other\n", 0o600)
    assert (tmp_path / "webhook-secret").read_text() == "whole\n"
    assert [each.name for each in tmp_path.iterdir()] == ["webhook-secret"]
