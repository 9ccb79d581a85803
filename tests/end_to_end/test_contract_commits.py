"""Each commit that a push adds: what gets a build, what a reason, and in which order."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from tests.end_to_end.server import REPO, Server, World
from tests.fakes.push import ZERO, encode, make_commit, make_push
from tests.fakes.waiting import wait_until

Row = tuple[Any, ...]


def script(world: World, body: str = "true", **files: str | None) -> str:
    """Commit a `ci` that runs `body` in a shell; return the commit's id."""
    return world.origin.commit(
        {"ci": f"#!/bin/sh\n{body}\n", **files}, executable=["ci"]
    )


def change(world: World, *names: str) -> list[str]:
    """One commit for each name, oldest first, that leaves `ci` as it is."""
    return [world.origin.commit({name: name}, name) for name in names]


def gate(world: World) -> str:
    """A shell line that waits until `open_gate` was called; needs `sandbox = false`."""
    return f"until test -e {world.folder}/open; do sleep 0.05; done"


def open_gate(world: World) -> None:
    (world.folder / "open").touch()


def history(world: World, question: str) -> list[Row]:
    """Rows of the server's own database, asked from outside."""
    with closing(sqlite3.connect(world.state_dir / "history.db")) as connection:
        return connection.execute(question).fetchall()


async def deliver(
    server: Server,
    commits: Sequence[Mapping[str, Any]] | Sequence[str],
    *,
    guid: str | None = None,
    **push: Any,
) -> dict[str, Any]:
    """Deliver a push of commits (ids, or whole elements); return the answer to it."""
    listed = [make_commit(c, c[:7]) if isinstance(c, str) else c for c in commits]
    payload = make_push(listed, **{"repo": REPO, **push})
    status, answer = await server.deliver(encode(payload), guid=guid)
    assert status == 202, answer
    return answer


async def all_ended(server: Server) -> None:
    async def idle() -> bool:
        status = await server.get("/build/status")
        return not status["queue"] and not status["current"]

    await wait_until(idle, what="the end of every build")


async def states(server: Server) -> dict[str, str]:
    """SHA -> state of every build."""
    page = await server.get("/builds?limit=100")
    return {build["sha"]: build["state"] for build in page["builds"]}


async def last_commit(server: Server) -> str | None:
    found: str | None = (await server.get("/build/status"))["last_commit"]
    return found


def only(state: str, shas: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(shas, state)


async def test_every_commit_of_a_push_is_built_the_head_first_then_the_newest(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"parallel": 1}
    base = script(world)
    shas = change(world, "one", "two", "three")
    async with world.server() as server:
        answer = await server.push(shas, before=base)
        assert answer == {"accepted": True, "builds": [1, 2, 3]}
        await all_ended(server)
        page = (await server.get("/builds"))["builds"]
        assert [(b["number"], b["sha"]) for b in page] == [
            (3, shas[2]),
            (2, shas[1]),
            (1, shas[0]),
        ]
        assert {b["cause"] for b in page} == {"push"}
        assert {b["branch"] for b in page} == {"dev"}
        order = history(world, "SELECT build FROM attempts ORDER BY started_at")
        assert order == [(3,), (2,), (1,)]
        assert await last_commit(server) == shas[2]


async def test_a_cut_payload_is_filled_by_git_and_distinct_means_nothing(
    command_world: World,
) -> None:
    world = command_world
    base = script(world)
    shas = change(world, *"abcde")
    told = [make_commit(sha, "told", distinct=False) for sha in shas[-2:]]
    async with world.server() as server:
        await deliver(server, told, before=base)
        await server.finished(1)
        await all_ended(server)
        assert await states(server) == only("succeeded", shas)
        assert await last_commit(server) == shas[-1]
        order = history(
            world,
            "SELECT b.sha FROM branch_commits c JOIN builds b ON b.number = c.build "
            "WHERE c.branch = 'dev' ORDER BY c.position",
        )
        assert [sha for (sha,) in order] == shas


async def test_pushes_that_were_slept_through_are_filled_by_the_next_one(
    command_world: World,
) -> None:
    world = command_world
    base = script(world)
    async with world.server() as server:
        await server.push(base)
        await server.finished(1)
        missed = change(world, "missed", "too")
        (told,) = change(world, "told")
        # GitHub's payload begins where the lost delivery ended.
        await deliver(server, [told], before=missed[-1])
        await server.finished(2)
        await all_ended(server)
        assert await states(server) == only("succeeded", [base, *missed, told])
        assert await last_commit(server) == told


async def test_where_no_payload_tells_the_head_alone_is_built(
    command_world: World,
) -> None:
    world = command_world
    script(world)
    head = change(world, "one", "two")[-1]
    async with world.server() as server:
        await deliver(server, [], before=ZERO, after=head, created=True)
        await server.finished(1)
        await all_ended(server)
        assert await states(server) == {head: "succeeded"}


async def test_a_force_push_builds_the_new_head_and_skips_what_is_gone(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    base = script(world, gate(world))
    async with world.server() as server:
        await server.push(base)
        await server.until_state(1, "running")
        gone = change(world, "gone", "too")
        await server.push(gone, before=base)
        new = world.origin.force(base, {"new": "new"})
        answer = await server.push(new, before=gone[-1], forced=True)
        assert answer == {"accepted": True, "builds": [4]}
        open_gate(world)
        await all_ended(server)
        assert await states(server) == {
            base: "succeeded",
            **only("skipped", gone),
            new: "succeeded",
        }
        assert "force push" in (await server.build(2))["summary"]
        assert await last_commit(server) == new


async def test_a_force_push_skips_what_is_gone_with_several_builds_at_once(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 2}
    base = script(world, gate(world))
    (busy,) = change(world, "busy")
    async with world.server() as server:
        await server.push([base, busy])
        for number in (1, 2):
            await server.until_state(number, "running")
        gone = change(world, "gone", "too")
        await server.push(gone, before=busy)
        new = world.origin.force(base, {"new": "new"})
        await server.push(new, before=gone[-1], forced=True)
        open_gate(world)
        await all_ended(server)
        found = await states(server)
        assert {sha: found[sha] for sha in gone} == only("skipped", gone)
        assert found[new] == "succeeded"


async def test_a_force_push_back_to_a_built_commit_skips_what_is_gone(
    command_world: World,
) -> None:
    """`git reset --hard HEAD~2; git push -f`: the commonest force push of all."""
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    base = script(world, f"test -e free || {gate(world)}", free="")
    async with world.server() as server:
        await server.push(base)
        await server.finished(1)
        running = world.origin.commit({"free": None})
        await server.push(running, before=base)
        await server.until_state(2, "running")
        (gone,) = change(world, "gone")
        await server.push(gone, before=running)
        world.origin.branch("dev", base)
        answer = await deliver(server, [], before=gone, after=base, forced=True)
        assert answer == {"accepted": True, "builds": [1]}
        newest = await last_commit(server)
        open_gate(world)
        await all_ended(server)
        assert newest == base
        assert await last_commit(server) == base
        assert (await states(server))[gone] == "skipped"


async def test_policy_latest_builds_heads_and_says_which_superseded_which(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False, "parallel": 1}
    world.repository |= {"policy": "latest"}
    base = script(world, gate(world))
    async with world.server() as server:
        await server.push(base)
        await server.until_state(1, "running")
        older, head, next_head = change(world, "older", "head", "next")
        assert (await server.push([older, head], before=base))["builds"] == [3]
        assert (await server.push(next_head, before=head))["builds"] == [4]
        open_gate(world)
        await all_ended(server)
        assert await states(server) == {
            base: "succeeded",
            older: "skipped",
            head: "cancelled",
            next_head: "succeeded",
        }
        assert "superseded by #4" in (await server.build(3))["summary"]
        posted = await world.github.wait_for(head, "error")
        assert "superseded by #4" in posted.description
        assert posted.description.startswith("cancelled")


async def test_of_a_long_push_the_newest_are_built_whether_told_or_found(
    command_world: World,
) -> None:
    world = command_world
    world.repository |= {"max_commits_per_push": 2}
    base = script(world)
    told = change(world, "one", "two", "three", "four")
    async with world.server() as server:
        answer = await deliver(server, told, before=base)
        assert answer == {"accepted": True, "builds": [3, 4]}
        found = change(world, "five", "six", "seven")
        await deliver(server, [found[-1]], before=told[-1])
        await server.finished(5)
        await all_ended(server)
        assert await states(server) == {
            **only("skipped", told[:2]),
            **only("succeeded", told[2:]),
            found[0]: "skipped",
            **only("succeeded", found[1:]),
        }
        assert "limit of 2" in (await server.build(1))["summary"]
        assert world.github.statuses(told[0]) == []


async def test_skip_ci_is_honoured_only_where_it_is_configured(
    command_world: World,
) -> None:
    world = command_world
    base = script(world)
    shas = change(world, "one", "two", "three")
    messages = ["one [skip ci]", "two", "three\n\nskip-checks: true"]
    listed = [make_commit(sha, text) for sha, text in zip(shas, messages, strict=True)]
    async with world.server() as server:
        assert (await deliver(server, listed, before=base))["builds"] == [1, 2, 3]
        await all_ended(server)
        assert await states(server) == only("succeeded", shas)
        await server.stop()
    world.repository |= {"skip_ci": True}
    (last,) = change(world, "four")
    async with world.server() as server:
        listed = [make_commit(last, "four [ci skip]")]
        answer = await deliver(server, listed, before=shas[-1])
        assert answer == {"accepted": True, "builds": []}
        assert (await server.finished(4))["state"] == "skipped"
        assert "skip" in (await server.build(4))["summary"]


async def test_what_is_ignored_is_recorded_with_its_reason(
    command_world: World,
) -> None:
    world = command_world
    head = script(world)
    ignored: list[tuple[dict[str, Any], str]] = [
        ({"ref": "refs/tags/v1"}, "tag"),
        ({"ref": "refs/pull/7/head"}, "not a branch"),
        ({"branch": "other"}, "branch other"),
        ({"deleted": True}, "deleted"),
        ({"repo": "some/body", "github_id": 77}, "some/body is not configured"),
    ]
    async with world.server() as server:
        for push, words in ignored:
            commits = [] if push.get("deleted") else [head]
            answer = await deliver(server, commits, **push)
            assert set(answer) == {"accepted", "reason"}
            assert answer["accepted"] is False
            assert words in answer["reason"]
        rows = history(world, "SELECT accepted, reason FROM deliveries ORDER BY id")
        assert len(rows) == len(ignored)
        for (accepted, reason), (_, words) in zip(rows, ignored, strict=True):
            assert accepted == 0
            assert words in reason
        assert (await server.get("/builds"))["builds"] == []


async def test_a_renamed_repository_is_followed_by_its_number_after_a_restart(
    command_world: World,
) -> None:
    world = command_world
    base = script(world)
    async with world.server() as server:
        await server.push(base)
        await server.finished(1)
        await server.stop()
    (after,) = change(world, "renamed")
    async with world.server() as server:
        answer = await deliver(
            server, [after], before=base, repo="new-owner/new-name", guid="renamed"
        )
        assert answer == {"accepted": True, "builds": [2]}
        assert (await server.finished(2))["repo"] == REPO
        posted = await world.github.wait_for(after, "success")
        assert posted.repo == "new-owner/new-name"


async def test_deliveries_that_overtake_each_other_keep_the_branchs_order(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"parallel": 0}
    base = script(world)
    first, second = change(world, "first", "second")
    async with world.server() as server:
        await server.push(base)
        await server.push(second, before=first)
        await server.push(first, before=base)
        await server.stop()
    world.build = {}
    async with world.server() as server:
        await all_ended(server)
        assert await last_commit(server) == second


async def test_a_repeated_delivery_changes_nothing_even_after_a_restart(
    command_world: World,
) -> None:
    world = command_world
    sha = script(world)
    async with world.server() as server:
        first = await server.push(sha, guid="one-guid")
        await server.finished(1)
        await server.stop()
    before = history(world, "SELECT * FROM builds")
    async with world.server() as server:
        assert await server.push(sha, guid="one-guid") == first
        assert history(world, "SELECT * FROM builds") == before
        assert history(world, "SELECT count(*) FROM deliveries") == [(1,)]
