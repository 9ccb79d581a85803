"""The log of a real Nix build as a page: its phases, and its lines as they come."""

from __future__ import annotations

import asyncio
import json

from tests.end_to_end.server import World
from tests.end_to_end.test_contract_commits import gate, open_gate
from tests.fakes.flakes import one_package
from tests.serve.html_tree import parse

PHASE = '@nix {"action":"setPhase","phase":"%s"}'
SCRIPT = f"""
GATE
echo '{PHASE % "unpackPhase"}'
echo unpacking
echo 'Running phase: buildPhase'
echo '{PHASE % "buildPhase"}'
printf '\\033[31mcompiling\\033[0m\\n'
i=0
while [ $i -lt 2000 ]; do i=$((i+1)); echo "line $i"; done
echo '{PHASE % "installPhase"}'
echo done > $out
"""
OWN = [
    *("Running phase: unpackPhase", "unpacking", "Running phase: buildPhase"),
    *("compiling", *(f"line {number}" for number in range(1, 2001))),
    "Running phase: installPhase",
]


async def test_lines_of_a_build_come_once_and_in_phases(world: World) -> None:
    world.repository = {"targets": ["packages.*"]}
    async with world.server() as server:
        script = SCRIPT.replace("GATE", gate(world))
        sha = world.origin.commit(one_package(script, name="web"))
        number = (await server.push(sha))["builds"][0]
        await server.until_state(number, "running")
        path = f"/builds/{number}/log"
        stream = f"{server.private}/builds/{number}/events?log=1&attempt=1&offset=0"
        told: dict[int, str] = {}
        async with server.session.get(stream) as response:
            await asyncio.to_thread(open_gate, world)
            async for line in response.content:
                name, _, data = line.decode().partition(": ")
                if data.strip() == "end":
                    break
                if name == "data" and "html" in json.loads(data):
                    for element in parse(json.loads(data)["html"]).all("p"):
                        told[int((element.attributes["id"] or "")[1:])] = element.text
        build = await server.finished(number)
        assert build["state"] == "succeeded", build["summary"]
        found = await server.get(path + ".json?target=packages.web")
        plain = [line["text"].replace("\x1b[31m", "") for line in found["lines"]]
        assert [text.replace("\x1b[0m", "") for text in plain] == OWN
        assert len(told) == (await server.text(path)).count(b"\n")
        assert [told[line["n"]] for line in found["lines"]] == OWN
