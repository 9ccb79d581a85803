"""States and statuses: cancel, retry, force, restarts, and what GitHub is told of them."""

from __future__ import annotations

import signal

from tests.end_to_end.server import Server, World, marked_processes
from tests.end_to_end.test_contract_commits import (
    all_ended,
    change,
    gate,
    history,
    open_gate,
    script,
)
from tests.end_to_end.test_contract_private import ask, check_build, check_error
from tests.end_to_end.wire import going_on
from tests.fakes.waiting import wait_until


async def told_all(server: Server) -> None:
    """Wait until the outbox is empty."""

    async def empty() -> bool:
        question = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND dead = 0"
        return history(server.world, question) == [(0,)]

    await wait_until(empty, what="an empty outbox")


async def until_logged(server: Server, words: str) -> None:
    async def said() -> bool:
        return any(words in line.get("message", "") for line in server.lines)

    await wait_until(said, what=f"a line of the log with {words!r}")


async def test_what_can_be_cancelled_and_retried_and_what_cannot(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    base = script(world, f"echo up; {gate(world)}; exit 7")
    async with world.server() as server:

        async def refuse(path: str, state: str) -> None:
            answer = await ask(server, "POST", path)
            assert check_error(answer, 409)["detail"]["state"] == state

        async def agree(path: str, state: str) -> None:
            answer = await ask(server, "POST", path)
            assert answer.status == 202, answer
            check_build(answer.json)
            assert answer.json["state"] == state

        await server.push(base)
        await server.until_state(1, "running")
        (later,) = change(world, "later")
        await server.push(later, before=base)
        await refuse("/builds/1/retry", "running")
        await refuse("/builds/2/retry", "queued")
        await agree("/builds/2/cancel", "cancelled")
        assert "cancelled by" in (await server.build(2))["summary"]
        await refuse("/builds/2/cancel", "cancelled")
        await agree("/builds/2/retry", "queued")
        answer = await ask(server, "POST", "/builds/1/cancel")
        assert answer.status == 202
        assert (await server.finished(1))["state"] == "cancelled"
        await refuse("/builds/1/cancel", "cancelled")
        await server.until_state(2, "running")
        open_gate(world)
        assert (await server.finished(2))["state"] == "failed"
        await refuse("/builds/2/cancel", "failed")
        assert (await server.get("/build/status"))["last_status"] == "failed"
        answer = await ask(server, "POST", "/builds/1/retry")
        assert (answer.status, answer.json["number"]) == (202, 1)
        again = await server.finished(1)
        assert (again["state"], again["attempt"]) == ("failed", 2)
        # Every attempt keeps its own log; the newest commit stays the newest.
        assert b"up\n" in await server.text("/builds/1/log?attempt=2")
        assert (await server.get("/build/status"))["last_commit"] == later


async def test_pendings_are_for_heads_at_once_and_for_older_commits_at_their_start(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    base = script(world, gate(world))
    older, middle, head = change(world, "older", "middle", "head")
    async with world.server() as server:
        await server.push([older, middle, head], before=base)
        await world.github.wait_for(head, "pending")
        await server.until_state(3, "running")
        await told_all(server)
        told = {status.sha for status in world.github.taken}
        assert told == {head}
        open_gate(world)
        await all_ended(server)
        await told_all(server)
    for sha, number in ((older, 1), (middle, 2), (head, 3)):
        statuses = world.github.statuses(sha)
        assert [s.state for s in statuses] in (["pending", "success"], ["success"])
        for status in statuses:
            assert status.context == "build-server"
            assert status.target_url == f"http://build-server:8000/builds/{number}"
            assert 0 < len(status.description) <= 140
    finals = [s.sha for s in world.github.taken if s.state == "success"]
    assert finals[0] == head


async def test_a_failing_target_has_its_own_context_until_it_is_built(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    flag = world.folder / "mended"
    long = "x" * 500
    sha = script(world, f"test -e {flag} && exit; echo reason {long}; exit 3")
    own = "build-server/./ci"
    async with world.server() as server:
        await server.push(sha)
        await server.finished(1)
        posted = await world.github.wait_for(sha, "failure", context=own)
        assert "reason xxx" in posted.description
        summary = await world.github.wait_for(sha, "failure")
        assert "1 of 1 failed" in summary.description
        assert all(len(s.description) <= 140 for s in world.github.taken)
        flag.touch()
        assert (await server.post("/builds/1/retry"))[0] == 202
        await world.github.wait_for(sha, "success")
        await world.github.wait_for(sha, "success", context=own)


async def test_the_context_is_configurable(command_world: World) -> None:
    world = command_world
    world.extra = ""
    plain = world.write_configuration

    def write() -> object:
        path = plain()
        text = path.read_text()
        path.write_text(
            text.replace("[github]", '[github]\nstatus_context = "ci/nix"').replace(
                "state_dir", 'public_url = "https://ci.example.ts.net"\nstate_dir'
            )
        )
        return path

    world.write_configuration = write  # type: ignore[method-assign, assignment] # two more keys
    sha = script(world)
    async with world.server() as server:
        await server.push(sha)
        posted = await world.github.wait_for(sha, "success", context="ci/nix")
        assert posted.target_url == "https://ci.example.ts.net/builds/1"
        assert {s.context for s in world.github.taken} == {"ci/nix"}


async def test_term_lets_a_build_end_begins_no_other_and_the_next_server_does(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    base = script(world, f"echo up; {gate(world)}")
    (later,) = change(world, "later")
    async with world.server() as server:
        await server.push(base)
        await server.until_said(1, b"up")
        with going_on() as clock:
            begun = clock()
            server.process.send_signal(signal.SIGTERM)
            await until_logged(server, "stopping")
            assert (await server.push(later, before=base))["accepted"] is True
            open_gate(world)
            assert await server.ended() == 0
            # Less than the grace period: nobody is waited for.
            assert clock() - begun < 8
    rows = history(world, "SELECT state, attempt FROM builds ORDER BY number")
    assert rows == [("succeeded", 1), ("queued", 0)]
    async with world.server() as server:
        assert (await server.finished(2))["state"] == "succeeded"


async def test_a_second_term_does_not_wait_and_costs_the_build_nothing(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    base = script(world, f"trap '' TERM; echo up; {gate(world)}")
    async with world.server() as server:
        await server.push(base)
        await server.until_said(1, b"up")
        with going_on() as clock:
            begun = clock()
            server.process.send_signal(signal.SIGTERM)
            await until_logged(server, "stopping")
            server.process.send_signal(signal.SIGTERM)
            assert await server.ended() == 0
            # Less than the grace period: the command's own end may take its share.
            assert clock() - begun < 15
    assert await marked_processes(world.state_dir) == []
    rows = history(world, "SELECT state, attempt, counted, deaths FROM builds")
    assert rows == [("queued", 1, 0, 0)]
    open_gate(world)
    async with world.server() as server:
        build = await server.finished(1)
        assert (build["state"], build["attempt"]) == ("succeeded", 2)
    assert "error" not in {status.state for status in world.github.taken}


async def test_five_deaths_during_a_build_end_it_and_four_do_not(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    sha = script(world, f"echo up; {gate(world)}")
    for death in range(1, 6):
        async with world.server() as server:
            if death == 1:
                await server.push(sha)
            # Not while it fetches: git would be counted.
            await server.until_said(1, b"up")
            assert (await server.build(1))["attempt"] == death
            assert len(await marked_processes(world.state_dir)) < 6
            await server.kill()
    async with world.server() as server:
        build = await server.finished(1)
        assert build["state"] == "error"
        assert "5 times" in build["summary"]
        await world.github.wait_for(sha, "error")
        assert await marked_processes(world.state_dir) == []
        # People may still want it.
        open_gate(world)
        assert (await server.post("/builds/1/retry"))[0] == 202
        build = await server.finished(1)
        assert (build["state"], build["attempt"]) == ("succeeded", 6)
        await world.github.wait_for(sha, "success")
