"""`/help` says what the code means: states, keys, addresses, exit codes."""

from __future__ import annotations

import re

from ci.client import exits
from ci.models import BuildState, status_state
from ci.serve.assets import FOLDER
from ci.serve.openapi import canonical
from ci.serve.routes import ROUTES
from ci.serve.text import SYMBOLS
from tests.serve.conftest import Private
from tests.serve.reading import page


async def test_help_explains_what_there_is(client: Private) -> None:
    async with client.get("/help") as response:
        told = await response.json()
    read = await page(client, "/help")
    async with client.get("/help.txt") as response:
        text = " ".join((await response.text()).split())
    assert [one["state"] for one in told["states"]] == list(BuildState)
    for one in told["states"]:
        state = BuildState(one["state"])
        assert one["symbol"] == SYMBOLS[state]
        assert one["github"] == (status_state(state) and str(status_state(state)))
        assert f"{one['symbol']} {state} {one['meaning']}" in read.words
        assert f"{one['symbol']} {state} {one['meaning']}" in text
    assert {one["path"] for one in told["paths"]} == {
        canonical(route.path)
        for route in ROUTES
        if route.method == "GET" and not route.hidden
    }
    for one in (*told["paths"], *told["keys"], *told["exits"]):
        assert one["meaning"] in read.words
        assert one["meaning"] in text
    assert "keys-off" in [tag.get("id") for tag in read.all("input")]


async def test_exit_codes_are_those_of_the_client(client: Private) -> None:
    async with client.get("/help") as response:
        told = (await response.json())["exits"]
    assert [one["code"] for one in told] == sorted(map(int, exits.Exit))
    lines = [f"{one['code']:>5}  {one['meaning']}" for one in told]
    assert "\n".join(["exit codes:", *lines]) == exits.EXPLAINED


async def test_keys_are_those_of_the_pages(client: Private) -> None:
    async with client.get("/help") as response:
        told = (await response.json())["keys"]
    explained = {key.replace(" ", "") for one in told for key in one["keys"]}
    table = re.search(
        r"const KEYS = \{(.*?)\n\};", (FOLDER / "keys.js").read_text(), re.DOTALL
    )
    assert table is not None
    used = set(re.findall(r'^\s+"?([^\s":]+)"?: \(', table[1], re.MULTILINE))
    assert used
    assert used <= explained
