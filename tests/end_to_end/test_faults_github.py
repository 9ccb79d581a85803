"""GitHub is away while commits are built, refuses for good, or knows a repository no more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.end_to_end import impatient
from tests.end_to_end.server import REPO, Server, World
from tests.end_to_end.test_contract_commits import all_ended, change, history, script
from tests.end_to_end.test_contract_states import told_all
from tests.end_to_end.test_faults_network import remote
from tests.fakes import misbehave
from tests.fakes.proxy import fault_proxy
from tests.fakes.push import GITHUB_ID, encode, make_commit, make_push
from tests.fakes.waiting import wait_until

BUILDS = 10


async def statuses(server: Server, *, ok: bool) -> dict[str, Any]:
    """What health says of them, as soon as they are well, or not.

    The row is written a moment before the server looks at it again.
    """

    async def there() -> dict[str, Any] | None:
        checks = (await server.get("/health"))["checks"]
        found: dict[str, Any] = next(c for c in checks if c["name"] == "statuses")
        return found if found["ok"] is ok else None

    said: dict[str, Any] | None = await wait_until(there, what=f"statuses: {ok}")
    assert said is not None
    return said


async def measured(server: Server, line: str) -> None:
    """Wait until Prometheus would be told this line."""

    async def told() -> bool:
        return line in (await server.text("/metrics")).decode().splitlines()

    await wait_until(told, what=line)


@pytest.mark.faults
async def test_github_is_away_for_ten_builds_and_then_shows_what_became_of_them(
    command_world: World,
) -> None:
    world = command_world
    world.program, world.build = impatient.PROGRAM, {"sandbox": False}
    async with fault_proxy(world.github.port) as network:
        real, world.github.url = world.github.url, network.url(world.github.url)
        shas = [script(world, f"exit {number % 2}") for number in range(BUILDS)]
        async with world.server() as server:
            await network.close()
            for number, sha in enumerate(shas):
                await server.push(sha, before=shas[number - 1] if number else "")
            await all_ended(server)
            assert not world.github.taken
            await statuses(server, ok=False)
            # One is built again meanwhile: only its last word counts.
            assert (await server.post("/builds/1/retry"))[0] == 202
            await all_ended(server)
            await network.open()
            await told_all(server)
            await statuses(server, ok=True)
        world.github.url = real
    for number, sha in enumerate(shas):
        told = [s.state for s in world.github.statuses(sha, "build-server")]
        verdict = "failure" if number % 2 else "success"
        assert told[-1] == verdict, (number, told)
        # A pending on its way when GitHub went may have been repeated, never overtaken.
        assert set(told[:-1]) <= {"pending", verdict}
        assert told == sorted(told, key=lambda state: state != "pending") or number == 0
    assert history(world, "SELECT count(*) FROM outbox WHERE dead = 1") == [(0,)]


async def test_what_github_refuses_for_good_is_seen_in_health_and_metrics(
    command_world: World,
) -> None:
    world = command_world
    world.program, world.build = impatient.PROGRAM, {"sandbox": False}
    sha = script(world)
    message = "This SHA and context has reached the maximum number of statuses."
    world.github.misbehave(*[misbehave.invalid(message)] * 2)
    async with world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        await told_all(server)
        found = await statuses(server, ok=False)
        assert "refused for good" in found["detail"]
        assert message in found["detail"]
        dead = history(world, "SELECT count(*) FROM outbox WHERE dead = 1")[0][0]
        assert 1 <= dead <= 2
        await measured(server, f"build_server_outbox_dead {dead}.0")
        await server.stop()
    # A restart does not forget it; a retry that GitHub takes makes it good.
    async with world.server() as server:
        await statuses(server, ok=False)
        assert (await server.post("/builds/1/retry"))[0] == 202
        await world.github.wait_for(sha, "success")
        await told_all(server)
        await statuses(server, ok=True)
        await measured(server, "build_server_outbox_dead 0.0")


@pytest.mark.faults
async def test_a_repository_that_moves_and_is_made_private(
    command_world: World,
) -> None:
    """Its new name is learned from the next push; its old address is said to have moved."""
    world = command_world
    before = script(world)
    async with remote(world) as far, world.server() as server:
        await server.push(before)
        assert (await server.finished(1))["state"] == "succeeded"
        await world.github.wait_for(before, "success")
        # Renamed: git redirects, and GitHub takes statuses under the new name only.
        world.github.repositories = {"octo-org/renamed"}
        far.server.status = 301
        (sha,) = change(world, "after the move")
        payload = make_push(
            [make_commit(sha)],
            before=before,
            repo="octo-org/renamed",
            github_id=GITHUB_ID,
        )
        status, answer = await server.deliver(encode(payload))
        assert (status, answer["builds"]) == (202, [2])
        build = await server.finished(2)
        assert build["state"] == "error"
        assert "write its new url in the configuration" in build["summary"]
        posted = await world.github.wait_for(sha, "error")
        assert posted.repo == "octo-org/renamed"
        # The address is put right.
        far.server.status = 200
        assert (await server.post("/builds/2/retry"))[0] == 202
        assert (await server.finished(2))["state"] == "succeeded"
        # Made private, and our token may not see it any more.
        far.server.status = 404
        (later,) = change(world, "in private")
        await server.push(later, before=sha)
        build = await server.finished(3)
        assert build["state"] == "error"
        assert "none that our token may see" in build["summary"]
        assert REPO in {build["repo"]}
        # It takes nobody else's place, and what is here can still be built.
        assert (await server.post("/builds/1/retry"))[0] == 202
        assert (await server.finished(1))["state"] == "succeeded"
