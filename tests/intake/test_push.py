from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest
from hypothesis import given, settings, strategies as st

from ci.errors import RequestError
from ci.intake.push import MAX_TITLE, Ignored, Ping, Push, parse, title
from tests.fakes.push import ZERO, encode, make_commit, make_ping, make_push, sha

PAYLOADS = Path(__file__).parents[1] / "samples/payloads"
EXAMPLE_HEAD = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"


def samples(event: str) -> list[Path]:
    found = sorted(PAYLOADS.glob(f"{event}-*.json"))
    assert found, f"no samples of {event} in {PAYLOADS}"
    return found


@pytest.mark.parametrize("path", samples("push"), ids=lambda path: path.stem)
def test_recorded_pushes(path: Path) -> None:
    push = parse("push", path.read_bytes())
    assert isinstance(push, Push)
    kind, _, what = path.stem.removeprefix("push-").partition("-")
    assert (
        push.ref == {"tag": "refs/tags/simple-tag", "branch": "refs/heads/master"}[kind]
    )
    assert push.deleted == what.startswith("deleted")
    assert push.after == (ZERO if push.deleted else EXAMPLE_HEAD)
    assert (push.head_commit is None) == push.deleted
    assert push.repository.full_name == "Codertocat/Hello-World"


@pytest.mark.parametrize("path", samples("ping"), ids=lambda path: path.stem)
def test_recorded_pings(path: Path) -> None:
    ping = parse("ping", path.read_bytes())
    assert isinstance(ping, Ping)
    assert (ping.repository is None) == ("organization" in path.stem)
    assert ping.sends_pushes == ("repository" in path.stem)


@pytest.mark.parametrize(
    "payload",
    [
        make_push(),
        make_push(3),
        make_push(0),
        make_push(0, created=True),
        make_push(0, deleted=True),
        make_push(forced=True),
    ],
)
def test_the_stand_in_has_the_shape_that_github_documents(
    payload: dict[str, Any],
) -> None:
    schema = json.loads((PAYLOADS / "webhook-push.schema.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(payload)
    assert isinstance(parse("push", encode(payload)), Push)


def test_a_push_is_read_as_it_is_told() -> None:
    mixed = [
        make_commit(sha(1), "First\n\nWhy it was done", author="Ada"),
        make_commit(sha(2), "Merge branch 'b'", distinct=False),
    ]
    push = parse("push", encode(make_push(mixed, before=sha(0), forced=True)))
    assert isinstance(push, Push)
    assert (push.before, push.after, push.forced) == (sha(0), sha(2), True)
    first, second = (commit.commit() for commit in push.commits)
    assert (first.sha, first.title, first.author) == (sha(1), "First", "Ada")
    assert second.title == "Merge branch 'b'"


def test_sha_256_repositories() -> None:
    long = "ab" * 32
    push = parse("push", encode(make_push([make_commit(long)], before="0" * 64)))
    assert isinstance(push, Push)
    assert push.after == long


@pytest.mark.parametrize("event", ["status", "issues", "__init__", "push "])
def test_other_events_are_ignored_whatever_they_carry(event: str) -> None:
    said = parse(event, b"\xff not even JSON")
    assert isinstance(said, Ignored)
    assert event in said.reason


def without(key: str) -> dict[str, Any]:
    payload = make_push()
    del payload[key]
    return payload


GOOD = encode(make_push())
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{ref: 1}",
    "cut": GOOD[:-1],
    "two": GOOD + GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "not UTF-8": GOOD.replace(b"mona", b"\xff\xfe", 1),
    "list": b"[]",
    "null": b"null",
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"ref":' * 100_000 + b"1" + b"}" * 100_000,
    "deep extra key": GOOD[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "lone surrogate": GOOD.replace(b"push 0", b"\\ud800", 1),
    "huge number": GOOD[:-1] + b',"x":' + b"9" * 100_000 + b"}",
    "NaN for an id": GOOD.replace(b"1296269", b"NaN"),
    "id beyond SQLite": GOOD.replace(b"1296269", b"9223372036854775808"),
    "id of text": GOOD.replace(b'"id":1296269', b'"id":"1296269"'),
    "after not a SHA": encode(make_push(0, after="dev")),
    "after in capitals": encode(make_push(0, after="A" * 40)),
    "after too long": encode(make_push(0, after="a" * 41)),
    "after with newline": encode(make_push(0, after="a" * 40 + "\n")),
    "before empty": encode(make_push(before="")),
    "commit not a SHA": encode(make_push([make_commit("HEAD")])),
    "ref a number": encode(make_push() | {"ref": 1}),
    "ref empty": encode(make_push(ref="")),
    "ref without end": encode(make_push(branch="x" * 2000)),
    "forced as text": encode(make_push() | {"forced": "true"}),
    "commits null": encode(make_push() | {"commits": None}),
    "commits without end": encode(make_push() | {"commits": [{}] * 10_000}),
    "name that climbs": encode(make_push(repo="../x")),
    "name with a path": encode(make_push(repo="a/b/c")),
    "name with a query": encode(make_push(repo="a/b?c")),
    **{f"no {key}": encode(without(key)) for key in ("ref", "after", "repository")},
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_pushes_are_refused_with_a_sentence(body: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        parse("push", body)
    assert refused.value.status == 400
    assert refused.value.message.startswith("this is not a push payload")
    assert len(refused.value.message) < 300


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([ZERO, sha(1), "refs/heads/dev", ""]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


def paths(value: object) -> list[tuple[str | int, ...]]:
    """Every place inside a JSON value, outermost first."""
    found: list[tuple[str | int, ...]] = [()]
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        found += [(key, *path) for path in paths(inner)]
    return found


def replaced(value: Any, path: tuple[str | int, ...], new: object) -> Any:
    if not path:
        return new
    changed: Any = copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


BASES = {"push": make_push(2), "ping": make_ping()}
events = st.sampled_from(sorted(BASES))


def dumped(value: object) -> bytes:
    """As text that JSON's own grammar may refuse: NaN, lone surrogates."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A real payload with one value somewhere replaced by anything."""
    event = draw(events)
    place = draw(st.sampled_from(paths(BASES[event])))
    payload = replaced(BASES[event], place, draw(json_values))
    return event, dumped(payload)


def outcome(event: str, body: bytes) -> Push | Ping | Ignored | RequestError:
    try:
        return parse(event, body)
    except RequestError as error:
        return error


@settings(deadline=None, max_examples=300)
@given(damaged() | st.tuples(events, st.binary() | json_values.map(dumped)))
def test_nothing_but_request_error_ever_comes_out(delivery: tuple[str, bytes]) -> None:
    said = outcome(*delivery)
    if isinstance(said, RequestError):
        assert said.status == 400
    elif isinstance(said, Push):
        for pushed in said.commits:
            commit = pushed.commit()
            # What SQLite refuses would fail a whole batch of deliveries.
            f"{commit.title}{commit.author}{said.ref}".encode()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("One line", "One line"),
        ("One line\r\n\r\nand more", "One line"),
        ("\n\nAfter empty lines\nmore", "After empty lines"),
        (
            "bell \x07 and \x1b[31mred\u2028same line\nmore",
            "bell \x07 and \x1b[31mred\u2028same line",
        ),
        ("", ""),
        ("x" * 10_000_000, "x" * MAX_TITLE),
    ],
    ids=["plain", "windows", "late", "controls", "empty", "long"],
)
def test_titles(message: str, expected: str) -> None:
    assert title(message) == expected
