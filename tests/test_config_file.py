"""The file: where it is, how it is read, and that its documentation is true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from ci import config
from ci.config.settings import documented_keys
from ci.errors import ConfigurationError

TABLES = (
    *("listen", "github", "api", "build", "cache", "disk", "retention", "notify"),
    "repository",
)
DOCS = Path(__file__).parents[1] / "docs/configuration.md"
MINIMAL = '[[repository]]\nname = "owner/name"\n'


def test_the_file_is_looked_for_in_order() -> None:
    environ = {"BUILD_SERVER_CONFIG": "/from/environment"}
    assert config.config_path("/from/option", environ) == Path("/from/option")
    assert config.config_path(None, environ) == Path("/from/environment")
    assert config.config_path(None, {}) == Path("/etc/build-server/config.toml")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[build\n", "is not TOML: line 1, column 7: "),
        (b"a = 1\na = 2\n", "is not TOML: line 2, column 6: "),
        (b'a = "', "is not TOML: "),
        (b"# \xff\xfe\n", "is not UTF-8 text (byte 2)"),
    ],
)
def test_a_file_that_is_no_toml_says_where(
    tmp_path: Path, content: bytes, line: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        config.load(path, environ={})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path} {line}")
    assert caught.value.__context__ is None


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none.toml", "does not exist; `build-server init` writes one"),
        (tmp_path, "cannot be read: Is a directory"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(f"{path} {words}")):
            config.load(path, environ={})


def test_a_byte_order_mark_and_windows_lines_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    content = ("[github]\nwebhook = false\n" + MINIMAL).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert config.load(path, environ={}).repositories[0].name == "owner/name"


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value)


def test_the_documentation_says_of_each_key_what_the_code_says() -> None:
    text = DOCS.read_text()
    for path, field in documented_keys():
        table, _, leaf = path.rpartition(".")
        if path in TABLES:
            assert f"## `{header(path)}`" in text, path
            assert f"\n{field.description}\n" in text, path
            continue
        missing = field.default is PydanticUndefined
        default = "–" if missing else f"`{_toml_value(field.default)}`"
        row = f"| `{leaf}` | {default} | {field.description} |"
        assert row in text, f"docs/configuration.md has no such row: {row}"
        assert text.index(row) > text.index(f"## `{header(table)}`" if table else "#")
    rows = re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)
    assert len(rows) == len(list(documented_keys())) - len(TABLES)


def header(table: str) -> str:
    return "[[repository]]" if table == "repository" else f"[{table}]"


def test_the_examples_in_the_documentation_are_good() -> None:
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        config.parse(tomllib.loads(example))


def test_reading_the_configuration_needs_little() -> None:
    script = "import sys, ci.config; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    assert "pydantic" in loaded
    assert not loaded & {"aiohttp", "asyncio", "cryptography", "pydantic_settings"}
