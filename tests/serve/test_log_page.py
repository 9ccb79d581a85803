"""The log as a page: every line once, under its own number, and the same as its twins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings, strategies as st

from ci.config import parse as parse_settings
from ci.history import logs as removed, progress
from ci.models import BuildState, Target
from ci.serve.pages import log_file, log_search
from ci.serve.pages.log_file import Lines, Part
from ci.serve.pages.log_follow import Follower
from ci.serve.pages.log_sheet import Sheet
from tests.serve.conftest import REPO, Private, Served, document, error_of
from tests.serve.html_tree import Element, parse

DRV = "/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-{}.drv"
WEB = Target("checks.web", BuildState.FAILED, error="500", derivation=DRV.format("web"))
LIB = Target("packages.lib", BuildState.SUCCEEDED, derivation=DRV.format("lib-2.3"))
DOC = Target("checks.doc", BuildState.FAILED, error="infinite\nrecursion <b>")
TARGETS = (WEB, LIB, DOC)
LOG = b"""\
build-server: building
evaluating file 'x.nix'
lib-2.3> Running phase: unpackPhase
lib-2.3> unpacking
web> Running phase: buildPhase
web> \x1b[31mred
lib-2.3> Running phase: installPhase
web> still\x1b[0m <script>alert(1)</script>
lib-2.3> installing
web> 10%\r100% \xff done
build-server: failed: checks.web
"""
HTML = {"Accept": "text/html"}


async def page_of(client: Private, path: str) -> Element:
    async with client.get(path, headers=HTML) as response:
        body = await response.text()
        assert response.status == 200, body
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        assert "script-src 'self'; style-src 'self'" in policy
        assert response.headers["Vary"] == "Accept"
        return parse(
            body.removeprefix("<!doctype html>").replace("<meta http-equiv", "<meta a")
        )


async def json_of(client: Private, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


def lines_of(tree: Element) -> dict[int, str]:
    """Number -> text of all numbered lines; AssertionError when a number is there twice."""
    found: dict[int, str] = {}
    for element in tree.all():
        name = element.attributes.get("id") or ""
        if name[:1] == "L" and name[1:].isdecimal():
            assert int(name[1:]) not in found
            found[int(name[1:])] = element.text
    return found


def groups_of(tree: Element) -> dict[str, tuple[bool, list[int]]]:
    """Writer -> (whether it is open, its line numbers), in the order of the page."""
    return {
        group.attributes["data-group"] or "": (
            "open" in group.attributes,
            list(lines_of(group)),
        )
        for group in tree.all(class_="group")
    }


async def test_lines_are_grouped_by_writer_and_keep_their_numbers(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=LOG)
    tree = await page_of(client, f"/builds/{build}/log")
    assert groups_of(tree) == {
        "build-server:": (False, [1, 11]),
        "": (False, [2]),
        "lib-2.3": (False, [3, 4, 7, 9]),
        "web": (True, [5, 6, 8, 10]),
    }
    lines = lines_of(tree)
    assert lines[8] == "still <script>alert(1)</script>"
    assert lines[10] == "100% \ufffd done"
    (red, still) = tree.all("span", class_="f1")
    assert (red.text, still.text) == ("red", "still")
    assert tree.one("title").text.startswith(f"✗ #{build} log — ")


async def test_a_line_that_only_resembles_a_mark_is_nobody_s(
    served: Served, client: Private
) -> None:
    log = b"web> one\nweb\nweb>\n> two\nweb> > three\n web> four\nweb> \n"
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=log)
    tree = await page_of(client, f"/builds/{build}/log")
    assert groups_of(tree) == {"web": (True, [1, 5, 7]), "": (False, [2, 3, 4, 6])}
    texts = ["one", "web", "web>", "> two", "> three", " web> four", ""]
    assert lines_of(tree) == dict(enumerate(texts, 1))


async def test_phases_are_folds_of_their_writer(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=LOG)
    tree = await page_of(client, f"/builds/{build}/log")
    phases = [
        (fold.one("summary").text, list(lines_of(fold)))
        for fold in tree.all("details", class_="phase")
    ]
    assert phases == [
        ("Running phase: unpackPhase", [3, 4]),
        ("Running phase: installPhase", [7, 9]),
        ("Running phase: buildPhase", [5, 6, 8, 10]),
    ]


async def test_twins_have_the_same_lines(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=LOG)
    path = f"/builds/{build}/log"
    async with client.get(path + ".txt") as response:
        assert await response.read() == LOG
    found = await json_of(client, path + ".json")
    assert (found["build"], found["attempt"], found["next"]) == (build, 1, None)
    assert [line["n"] for line in found["lines"]] == list(range(1, 12))
    writers = [line["derivation"] for line in found["lines"]]
    lib, web = "lib-2.3", "web"
    assert writers == [None, None, lib, lib, web, web, lib, web, lib, web, None]
    plain = {line["n"]: line["text"] for line in found["lines"]}
    shown = lines_of(await page_of(client, path))
    assert plain.keys() == shown.keys()
    same = [number for number in plain if number not in (6, 8, 10)]
    assert [plain[number] for number in same] == [shown[number] for number in same]
    assert plain[10] == "10%\r100% \ufffd done"


async def test_range_is_the_same_in_all_forms(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=LOG)
    path, asked = f"/builds/{build}/log", "?from=4&to=6"
    tree = await page_of(client, path + asked)
    assert sorted(lines_of(tree)) == [4, 5, 6]
    assert all(is_open for is_open, _ in groups_of(tree).values())
    async with client.get(f"{path}.txt{asked}") as response:
        assert await response.read() == b"".join(LOG.splitlines(True)[3:6])
    found = await json_of(client, f"{path}.json{asked}")
    assert [line["n"] for line in found["lines"]] == [4, 5, 6]
    assert "no such lines" in (await page_of(client, f"{path}?from=99")).text


async def test_one_target_keeps_the_numbers_of_the_whole_log(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=LOG)
    path = f"/builds/{build}/log"
    tree = await page_of(client, f"{path}?target=checks.web")
    assert list(lines_of(tree)) == [5, 6, 8, 10]
    assert not list(tree.all("details", class_="group"))
    found = await json_of(client, f"{path}.json?target=checks.web")
    assert [line["n"] for line in found["lines"]] == [5, 6, 8, 10]
    silent = await page_of(client, f"{path}?target=checks.doc")
    assert silent.one("div", class_="group").text == "infiniterecursion <b>"
    assert not lines_of(silent)


async def test_command_is_one_writer(served: Served, tmp_path: Path) -> None:
    repository = {"name": REPO, "builder": "command", "command": ["make"]}
    served.settings = parse_settings(document(tmp_path, repository=[repository]))
    build = await served.add(1, BuildState.FAILED, log=b"cc> a.c\nmake> b\n")
    async with TestClient(TestServer(served.application())) as client:
        tree = await page_of(client, f"/builds/{build}/log")
    assert groups_of(tree) == {"": (False, [1, 2])}
    assert lines_of(tree) == {1: "cc> a.c", 2: "make> b"}


async def test_what_failed_is_open_though_no_target_names_it(
    served: Served, client: Private
) -> None:
    """The timeline knows it; without any failure the server says what went wrong."""
    build = await served.add(1, BuildState.FAILED, targets=(LIB,), log=LOG)
    path = f"/builds/{build}/log"
    opened = _opened(await page_of(client, path))
    assert opened == {"build-server:", ""}
    row = progress.Row(DRV.format("web"), "", 1, 2, failed=True)
    await served.database.write(progress.record_derivations, build, 1, [row])
    opened = _opened(await page_of(client, path))
    assert opened == {"web"}


def _opened(tree: Element) -> set[str]:
    return {name for name, (is_open, _) in groups_of(tree).items() if is_open}


async def test_search_finds_the_failed_first(served: Served, client: Private) -> None:
    log = b"lib-2.3> Needle & <b>\nweb> \x1b[1mnee\x1b[0mDLE\nx> hay\n" * 600
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=log)
    path = f"/builds/{build}/log"
    tree = await page_of(client, f"{path}?q=NEEDLE")
    assert tree.one("h2").text.startswith("1,200 lines have “NEEDLE”")
    links = [link.attributes["href"] for link in tree.one("ol").all("a")]
    assert len(links) == log_search.MOST
    assert links[:2] == [f"{path}#L2", f"{path}#L5"]
    assert links[600] == f"{path}#L1"
    assert {mark.text for mark in tree.all("mark")} == {"Needle", "neeDLE"}
    found = await json_of(client, f"{path}.json?q=needle&target=packages.lib&to=9")
    assert [(line["n"], line["text"]) for line in found["lines"]] == [
        (number, "Needle & <b>") for number in (1, 4, 7)
    ]
    async with client.get(f"{path}.txt?q=HAY&to=4") as response:
        assert await response.text() == "3:x> hay\n"
    # The mark in front of a line is no text of it.
    assert (await json_of(client, f"{path}.json?q=lib-2"))["lines"] == []


@pytest.mark.timeout(300)
async def test_log_that_is_too_large_has_links_to_all_of_it(
    served: Served, client: Private
) -> None:
    total = 250_000
    log = b"".join(b"lib-2.3> line %d\n" % number for number in range(1, total + 1))
    build = await served.add(1, BuildState.SUCCEEDED, targets=(LIB,), log=log)
    first = await page_of(client, f"/builds/{build}/log")
    here = sorted(lines_of(first))
    assert here[: log_file.HEAD_LINES] == list(range(1, log_file.HEAD_LINES + 1))
    assert here[-log_file.TAIL_LINES :] == list(
        range(total - log_file.TAIL_LINES + 1, total + 1)
    )
    for link in first.one("p", class_="gap").all("a"):
        there = lines_of(await page_of(client, link.attributes["href"] or ""))
        assert all(text == f"line {number}" for number, text in there.items())
        here += there
    assert sorted(here) == list(range(1, total + 1))


async def test_endless_line_is_cut_and_the_raw_log_is_not(
    served: Served, client: Private
) -> None:
    log = b"web> before\nweb> " + b"x" * 3_000_000 + b"\nweb> after\n"
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=log)
    tree = await page_of(client, f"/builds/{build}/log")
    assert lines_of(tree)[1] == "before"
    assert lines_of(tree)[3] == "after"
    cut = tree.one("a", class_="cut")
    assert len(lines_of(tree)[2]) < 5000
    async with client.get(cut.attributes["href"] or "") as response:
        assert await response.read() == log


async def test_states_of_a_log_that_is_not_there(
    served: Served, client: Private
) -> None:
    build = await served.add(1)
    path = f"/builds/{build}/log"
    tree = await page_of(client, path)
    assert tree.one("div", id="log").text.strip() == "waiting for the build to start…"
    assert (await json_of(client, path + ".json"))["lines"] == []
    await served.begin(build)
    assert "nothing yet…" in (await page_of(client, path)).text
    await served.finish(build)
    await served.database.write(_remove, build)
    async with client.get(path, headers=HTML) as response:
        assert response.status == 410
        assert "was removed on Monday, for its age" in await response.text()
    assert (await error_of(client, "GET", path + ".json", 410))["status"] == 410


def _remove(connection: Any, build: int) -> None:
    removed.measured(connection, [(5, build, 1)])
    logs = [removed.Log(build, 1, 5, 0)]
    removed.condemn(connection, logs, [], "on Monday, for its age")


async def test_earlier_attempt_says_that_there_is_a_later_one(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, targets=TARGETS, log=b"web> one\n")
    path = f"/builds/{build}/log"
    await served.retry(build)
    waiting = await page_of(client, path)
    assert "waiting for attempt 2 to start" in waiting.one("p", class_="log-note").text
    await served.begin(build)
    served.log_path(build, 2).write_bytes(b"web> two\n")
    assert lines_of(await page_of(client, path)) == {1: "two"}
    earlier = await page_of(client, f"{path}?attempt=1")
    assert lines_of(earlier) == {1: "one"}
    note = earlier.one("p", class_="log-note")
    assert note.text == "This is attempt 1. Attempt 2 is running."
    assert note.one("a").attributes["href"] == path


async def test_bytes_are_for_the_raw_log_only(served: Served, client: Private) -> None:
    path = f"/builds/{await served.add(1, BuildState.FAILED, log=LOG)}/log"
    for query in ("q=a&tail=1", "from=1&offset=1", "to=1&follow=1"):
        await error_of(client, "GET", f"{path}?{query}", 400)
    await error_of(client, "GET", f"{path}.json?tail=1", 400)
    body = await error_of(client, "GET", f"{path}?from=none", 400)
    assert "the first line wanted" in body["error"]


async def test_news_go_on_where_the_page_ends(served: Served, client: Private) -> None:
    first, second = LOG[:150], LOG[150:] + b"web> no newline"
    build = await served.add(1, BuildState.RUNNING, targets=TARGETS, log=first)
    path = f"/builds/{build}/log"
    begun = await page_of(client, path)
    stream = begun.one("div", id="log").attributes["data-stream"] or ""
    lines = lines_of(begun)
    async with client.get(stream) as response:
        assert response.status == 200, await response.text()
        with served.log_path(build).open("ab") as file:
            file.write(second)
        await served.finish(build)
        async for line in response.content:
            name, _, data = line.decode().partition(": ")
            if data == "end\n":
                break
            if name == "data" and "html" in data:
                lines |= lines_of(parse(json.loads(data)["html"]))
    assert lines == lines_of(await page_of(client, path))
    assert lines[12] == "no newline"


writers = st.sampled_from(
    [b"web> ", b"lib-2.3> ", b"build-server: ", b"", b"a b> ", b"> ", b"x> y> "]
)
words = st.lists(
    st.sampled_from(
        [
            *(b"\x1b[31m", b"\x1b[0m", b"\x1b]8;;", b"Running phase: ", b"word"),
            *(b"<b>", b"&amp;", b"http://a.b/c", b"\t", b"\r", b"\xff"),
            b"\xe2\x80\xae",
        ]
    ),
    max_size=5,
).map(b"".join)
log_lines = st.lists(st.tuples(writers, words).map(b"".join), max_size=250)


def painted(tree: Element) -> dict[str, dict[int, str]]:
    return {
        group.attributes["data-group"] or "": lines_of(group)
        for group in tree.parts
        if isinstance(group, Element)
    }


@given(
    lines=log_lines,
    end=st.sampled_from([b"", b"web> no newline"]),
    cuts=st.lists(st.integers(0, 3000), max_size=8),
)
def test_lines_come_alike_at_once_and_bit_by_bit(
    lines: list[bytes], end: bytes, cuts: Sequence[int]
) -> None:
    """However the log is cut into pieces; and chunks hide no line of any writer."""
    log = b"".join(line + b"\n" for line in lines) + end
    count = len(lines) + bool(end)
    whole = Sheet("", marked=True)
    if count:
        whole.add(Lines(range(1, count + 1), log.removesuffix(b"\n")))
    tree = parse("".join(whole.html([], None)))
    follower = Follower(Path("never read"), 0, Sheet("", marked=True), None)
    bounds = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    news = [follower.take(log[a:b]) for a, b in pairwise(bounds)]
    news.append(follower.rest())
    assert news[-1].offset == len(log)
    bitwise: dict[str, dict[int, str]] = {}
    for piece in news:
        for writer, found in painted(parse(piece.html)).items():
            bitwise.setdefault(writer, {}).update(found)
    at_once = painted(tree)
    assert bitwise == at_once
    assert sum(map(len, at_once.values())) == count


@settings(deadline=None)
@given(
    lines=st.lists(
        st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), min_size=1
    ),
    first=st.integers(1, 60),
    last=st.none() | st.integers(1, 60),
)
def test_part_of_a_file_is_what_splitting_it_gives(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    first: int,
    last: int | None,
) -> None:
    path = tmp_path_factory.getbasetemp() / "part"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    part = Part(path, path.stat().st_size, None, first, last)
    found = [
        pair
        for piece in part.lines()
        for pair in zip(piece.numbers, piece.data.split(b"\n"), strict=True)
    ]
    assert found == list(enumerate(lines, 1))[first - 1 : last]
    assert log_file.measure(part).lines == len(found)
    assert log_file.whole_lines(path, part.end - 1) == part.end - len(lines[-1]) - 1
    assert log_file.newlines(path, part.end) == len(lines)


@pytest.mark.parametrize(
    ("first", "last"), [(1, None), (30, 31), (40, 90), (95, 300), (60, 50), (101, 200)]
)
def test_part_of_a_file_of_many_pieces(
    tmp_path: Path, first: int, last: int | None
) -> None:
    lines = [b"%d" % number * 5000 for number in range(1, 101)]
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(lines))
    pieces = list(Part(path, path.stat().st_size, None, first, last).lines())
    assert [n for piece in pieces for n in piece.numbers] == list(
        range(first, min(last or 100, 100) + 1)
    )
    found = [line for piece in pieces for line in piece.data.split(b"\n")]
    assert found == lines[first - 1 : last]


def test_chunks_that_a_browser_may_skip_have_a_known_height() -> None:
    sheet = Sheet("", marked=False)
    sheet.add(Lines(range(1, 251), b"\n".join([b"x"] * 250)))
    (group,) = parse("".join(sheet.flat())).parts
    assert isinstance(group, Element)
    sizes = [
        (chunk.attributes.get("class"), len(chunk.parts))
        for chunk in group.parts
        if isinstance(chunk, Element)
    ]
    assert sizes == [("chunk", 100), ("chunk", 100), (None, 50)]


def test_news_begin_in_the_colour_and_with_the_number_of_the_page(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"web> \x1b[31mred\nlib> plain\n")
    follower = Follower(path, path.stat().st_size, Sheet("", marked=True), "web")
    news = follower.take(b"web> still\nlib> other\nweb> ")
    assert (news.first, news.offset) == (3, path.stat().st_size + 22)
    tree = parse(news.html)
    assert lines_of(tree) == {3: "still"}
    assert tree.one("span", class_="f1").text == "still"


def test_endless_line_is_not_kept_in_memory_while_it_is_followed() -> None:
    follower = Follower(Path("never read"), 0, Sheet("", marked=False), None)
    piece = b"x" * 65536
    for _ in range(100):
        assert follower.take(piece).html == ""
    news = follower.take(b"\nnext\n")
    assert (news.first, news.offset) == (1, 100 * len(piece) + 6)
    lines = lines_of(parse(news.html))
    assert lines[2] == "next"
    assert len(lines[1]) < 5000
