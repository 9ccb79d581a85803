"""The manual page says what the parsers know, and formats without a warning."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ci.client.words import VERBS
from tests.client import manual

FORMATTERS = (
    ("groff", ("-man", "-ww", "-Tutf8", "-P-cbou")),
    ("mandoc", ("-T", "ascii", "-W", "warning")),
)


def _formatted() -> str:
    for name, options in FORMATTERS:
        if program := shutil.which(name):
            done = subprocess.run(
                [program, *options, manual.PAGE], capture_output=True, text=True
            )
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout
    return pytest.skip("neither groff nor mandoc is installed: no page is formatted")


def test_it_is_current() -> None:
    assert manual.PAGE.read_text(encoding="ascii") == manual.page(), (
        "write it anew: python -m tests.client.manual"
    )


def test_it_formats_without_a_warning_and_says_everything() -> None:
    shown = _formatted()
    for verb in VERBS:
        assert f"build-client {verb}" in shown
    for word in ("--fail-fast", "--grep RE", "--json[=FIELD,...]", "130", "BROWSER"):
        assert word in shown
    assert "/etc/build-server/client.toml" in shown
    assert "\\" not in shown
    assert "None" not in shown
