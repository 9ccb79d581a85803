"""Where the server is looked for, and what `doctor` says of the way to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci.client import address
from ci.client.exits import Failure
from ci.models import Check
from tests.client.conftest import House


async def test_doctor_says_what_is_wrong_and_how_to_mend_it(house: House) -> None:
    well = await house.run("build-client", "doctor")
    levels = [line.split("\t")[0] for line in well.out.splitlines()]
    # The server under test has a version of its own.
    assert (well.code, levels) == (0, ["ok", "warning", *["ok"] * 4])
    house.served.found[1] = Check(
        "cache", False, "refused\x1b[31m the connection", "systemctl start harmonia"
    )
    ill = await house.run("build-client", "doctor", "--json")
    assert ill.code == 1
    assert json.loads(ill.out)[-1] == {
        "name": "cache",
        "ok": False,
        "detail": "refused\\x1b[31m the connection",
        "fix": "systemctl start harmonia",
    }
    await house.close()
    gone = await house.run("build-client", "doctor")
    assert gone.code == 6
    assert gone.out.splitlines()[-1].startswith("bad\treach\t")
    assert gone.err == ""


def test_address_comes_from_flag_variable_file_or_default(tmp_path: Path) -> None:
    file = tmp_path / "build-server" / "client.toml"
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    if not Path(address.SYSTEM_FILE).exists():
        assert _found(None, environ) == (address.DEFAULT, "default")
    file.parent.mkdir()
    file.write_text('server = "https://ci.example.ts.net/"\n[cache]\nurl = "x"\n')
    assert _found(None, environ) == ("https://ci.example.ts.net", str(file))
    environ["BUILD_SERVER_URL"] = "ci"
    assert _found(None, environ) == ("http://ci:8000", "BUILD_SERVER_URL")
    assert _found("[::1]:81", environ) == ("http://[::1]:81", "--server")
    assert list(address.files(environ)) == [str(file), address.SYSTEM_FILE]


@pytest.mark.parametrize("content", ["server = 5", "server", "server = 'ftp://x'"])
def test_a_configuration_that_cannot_be_used(tmp_path: Path, content: str) -> None:
    file = tmp_path / "build-server" / "client.toml"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(Failure, match=str(file)) as caught:
        address.find(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert caught.value.code == 2


def _found(flag: str | None, environ: dict[str, str]) -> tuple[str, str]:
    found = address.find(flag, environ)
    return found.url, found.source
