from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from ci.config import Repository
from ci.history.deliveries import Plan
from ci.intake.plan import asks_to_skip, decide, greet, reasons
from ci.intake.push import Ignored, Ping, Push, PushedCommit, parse
from tests.fakes.push import (
    GITHUB_ID,
    REPO,
    ZERO,
    encode,
    make_commit,
    make_ping,
    make_push,
    sha,
)
from tests.intake.conftest import make_settings


def decided(
    payload: dict[str, Any], known: dict[int, str] | None = None, **keys: Any
) -> Plan | Ignored:
    """What becomes of a push when the fakes' repository is configured with `keys`."""
    push = parse("push", encode(payload))
    assert isinstance(push, Push)
    repositories = make_settings(
        {"name": "octo-org/other"}, {"name": REPO, **keys}
    ).repositories
    return decide(push, repositories, known or {}, "build-server")


def planned(payload: dict[str, Any], **keys: Any) -> Plan:
    plan = decided(payload, **keys)
    assert isinstance(plan, Plan), plan
    return plan


def built(plan: Plan) -> list[str]:
    return [commit.sha for commit in plan.build]


def skipped(plan: Plan) -> dict[str, str]:
    return dict(plan.reasons)


def test_every_commit_is_built_oldest_first_whether_distinct_or_not() -> None:
    commits = [
        make_commit(sha(1), "One", distinct=False),
        make_commit(sha(2), "Two"),
        make_commit(sha(3), "Merge branch 'two'", distinct=False),
    ]
    plan = planned(make_push(commits, repo=REPO))
    assert built(plan) == [sha(1), sha(2), sha(3)]
    assert [commit.title for commit in plan.build][-1] == "Merge branch 'two'"
    assert (plan.repo, plan.github_id, plan.github_name) == (REPO, GITHUB_ID, REPO)
    assert (plan.branch, plan.head, plan.policy) == ("dev", sha(3), "every")
    assert (plan.reasons, plan.context) == ({}, "build-server")


@pytest.mark.parametrize(
    "payload",
    [
        make_push(0, created=True, after=sha(9)),
        make_push(0, after=sha(9)),
        make_push(0, after=sha(9), forced=True),
        make_push(0, after=sha(9), head_commit=None),
        make_push(0, after=sha(9), head_commit=make_commit(sha("another"))),
    ],
    ids=["created", "forwarded", "forced", "no head", "other head"],
)
def test_a_branch_that_only_moved_has_its_head_built(payload: dict[str, Any]) -> None:
    assert built(planned(payload)) == [sha(9)]


def test_the_head_comes_last_even_when_the_list_was_cut_or_shuffled() -> None:
    pair = [make_commit(sha(1)), make_commit(sha(2))]
    cut = planned(
        make_push(pair, after=sha(9), head_commit=make_commit(sha(9), "Nine"))
    )
    assert built(cut) == [sha(1), sha(2), sha(9)]
    assert cut.build[-1].title == "Nine"
    assert built(planned(make_push(pair[::-1], after=sha(2)))) == [sha(1), sha(2)]
    assert built(planned(make_push([*pair, *pair]))) == [sha(1), sha(2)]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (make_push(repo="octo-org/unknown", github_id=5), "not configured"),
        (make_push(ref="refs/tags/v1"), "tag"),
        (make_push(0, ref="refs/tags/v1", created=True), "tag"),
        (make_push(0, ref="refs/tags/v1", deleted=True), "tag"),
        (make_push(ref="refs/notes/commits"), "not a branch"),
        (make_push(ref="dev"), "not a branch"),
        (make_push(branch="main"), "branch main"),
        (make_push(branch="Dev"), "branch Dev"),
        (make_push(branch="dev/x"), "branch dev/x"),
        (make_push(branch="<svg/onload=alert(1)>"), "branch <svg"),
        (make_push(branch="--upload-pack=touch${IFS}x"), "branch --upload-pack"),
        (make_push(branch="HEAD"), "branch HEAD"),
        (make_push(branch="a" * 40), "branch aaaa"),
        (make_push(0, deleted=True), "deleted"),
        (make_push(0, after=ZERO), "deleted"),
        (make_push(0, deleted=True, after="0" * 64), "deleted"),
    ],
)
def test_what_is_not_built_says_why(payload: dict[str, Any], reason: str) -> None:
    ignored = decided(payload)
    assert isinstance(ignored, Ignored)
    assert reason in ignored.reason
    assert ignored.repo == (None if reason == "not configured" else REPO)


def test_branches_with_slashes_are_taken_whole() -> None:
    keys: dict[str, Any] = {"branches": ["release/1.0", "a;$(id)`id`"]}
    for branch in keys["branches"]:
        assert planned(make_push(branch=branch), **keys).branch == branch
    assert isinstance(decided(make_push(branch="1.0"), **keys), Ignored)


def test_a_renamed_repository_is_followed_by_its_id() -> None:
    payload = make_push(repo="new-org/new-name")
    assert isinstance(decided(payload), Ignored)
    plan = decided(payload, known={GITHUB_ID: REPO})
    assert isinstance(plan, Plan)
    assert (plan.repo, plan.github_name) == (REPO, "new-org/new-name")


def test_the_id_wins_over_a_name_that_somebody_else_took() -> None:
    plan = decided(make_push(repo="octo-org/other"), known={GITHUB_ID: REPO})
    assert isinstance(plan, Plan)
    assert plan.repo == REPO


def test_names_are_compared_as_github_does() -> None:
    assert planned(make_push(repo=REPO.upper())).repo == REPO


def test_an_id_whose_repository_left_the_configuration_counts_for_nothing() -> None:
    plan = decided(make_push(), known={GITHUB_ID: "octo-org/gone"})
    assert isinstance(plan, Plan)
    assert plan.repo == REPO


def test_policy_latest_builds_the_head_alone() -> None:
    commits = [make_commit(sha(n)) for n in range(3)]
    plan = planned(make_push(commits), policy="latest")
    assert built(plan) == [sha(2)]
    assert list(skipped(plan)) == [sha(0), sha(1)]
    assert all(sha(2)[:7] in reason for reason in skipped(plan).values())


def test_of_a_long_push_the_newest_are_built() -> None:
    commits = [make_commit(sha(n)) for n in range(5)]
    plan = planned(make_push(commits), max_commits_per_push=2)
    assert built(plan) == [sha(3), sha(4)]
    assert list(skipped(plan)) == [sha(0), sha(1), sha(2)]
    assert all("limit of 2" in reason for reason in skipped(plan).values())


def test_skip_ci_is_honoured_only_where_the_repository_says_so() -> None:
    commits = [make_commit(sha(1), "Docs [skip ci]"), make_commit(sha(2), "Code")]
    assert built(planned(make_push(commits))) == [sha(1), sha(2)]
    plan = planned(make_push(commits), skip_ci=True, max_commits_per_push=1)
    assert built(plan) == [sha(2)]
    assert list(skipped(plan)) == [sha(1)]


@pytest.mark.parametrize(
    ("message", "asks"),
    [
        ("[skip ci] Docs", True),
        ("Docs [ci skip]", True),
        ("Docs\n\nIn the body [no ci] too", True),
        ("[skip actions]", True),
        ("[actions skip]", True),
        ("[SKIP CI]", True),
        ("Docs\n\n\nskip-checks:true", True),
        ("Docs\n\n\nskip-checks: true\n", True),
        ("Docs\n\nskip-checks: true\n\nand more", False),
        ("skip-checks: true", False),
        ("skip ci", False),
        ("[ skip ci ]", False),
        ("Teach it [skip] ci", False),
        ("", False),
    ],
)
def test_githubs_own_markers(message: str, asks: bool) -> None:
    assert asks_to_skip(message) == asks


histories = st.lists(
    st.sampled_from(["Code", "Docs [skip ci]", ""]), min_size=1, max_size=12
)


@given(
    histories,
    st.sampled_from(["every", "latest"]),
    st.integers(1, 5),
    st.booleans(),
)
def test_each_commit_is_built_or_skipped_with_a_reason(
    messages: list[str], policy: str, limit: int, skip_ci: bool
) -> None:
    commits = [
        PushedCommit.unknown(sha(n)).model_copy(update={"message": message})
        for n, message in enumerate(messages)
    ]
    repository = Repository.model_validate(
        {
            "name": REPO,
            "policy": policy,
            "max_commits_per_push": limit,
            "skip_ci": skip_ci,
        }
    )
    why = reasons(commits, repository)
    order = [commit.id for commit in commits]
    chosen = [one for one in order if one not in why]
    assert set(why) <= set(order)
    assert all(why.values())
    assert len(chosen) <= (1 if policy == "latest" else limit)
    if not (skip_ci and asks_to_skip(messages[-1])):
        assert chosen[-1] == order[-1]


@pytest.mark.parametrize(
    ("ping", "expected"),
    [
        (make_ping(), "the webhook works"),
        (make_ping(events=["*"]), "the webhook works"),
        (make_ping(events=["status"]), "does not send push"),
        (make_ping(repo="octo-org/unknown", github_id=5), "not configured"),
    ],
)
def test_a_ping_tells_what_is_wrong(ping: dict[str, Any], expected: str) -> None:
    said = parse("ping", encode(ping))
    assert isinstance(said, Ping)
    assert expected in greet(said, make_settings().repositories, {}).reason
