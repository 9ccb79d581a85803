"""The Atom feeds: valid, filtered, unchanged until something happens, harmless."""

from __future__ import annotations

from datetime import datetime
from xml.etree import ElementTree as ET

from ci.models import BuildState
from tests.serve.conftest import REPO, Private, Served, error_of
from tests.serve.reading import HOSTILE

S = BuildState
A = "{http://www.w3.org/2005/Atom}"
HERE = f"/repos/{REPO}/feed.atom"


async def feed(client: Private, path: str) -> ET.Element:
    """The feed, which must have what RFC 4287 wants of each."""
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/atom+xml"
        assert response.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; base-uri 'none'"
        )
        root = ET.fromstring(await response.read())  # noqa: S314 — our own
    assert root.tag == f"{A}feed"
    entries = root.findall(f"{A}entry")
    for each in (root, *entries):
        for name in ("id", "title", "updated"):
            assert len(each.findall(f"{A}{name}")) == 1, name
            assert each.findtext(f"{A}{name}"), name
        datetime.fromisoformat(each.findtext(f"{A}updated") or "")
    assert root.findtext(f"{A}author/{A}name")
    links = {link.get("rel"): link.get("href") for link in root.findall(f"{A}link")}
    assert links["self"] == f"http://build-server:8000{path}"
    ids = [entry.findtext(f"{A}id") for entry in entries]
    assert len(set(ids)) == len(ids)
    assert root.findtext(f"{A}updated") == max(
        (entry.findtext(f"{A}updated") or "" for entry in entries),
        default="1970-01-01T00:00:00.000Z",
    )
    return root


async def numbers(client: Private, path: str) -> list[int]:
    return [
        int((entry.findtext(f"{A}id") or "").rpartition("/builds/")[2])
        for entry in (await feed(client, path)).findall(f"{A}entry")
    ]


async def test_feed_has_an_entry_for_each_finished_build(
    served: Served, client: Private
) -> None:
    assert await numbers(client, HERE) == []
    good = await served.add(1, S.SUCCEEDED, summary="2 targets built")
    bad = await served.add(2, S.FAILED, branch="main")
    still = await served.add(3, S.FAILED)
    for number, state in ((4, S.RUNNING), (5, S.QUEUED), (6, S.SKIPPED)):
        await served.add(number, state)
    other = await served.add(7, S.FAILED, repo="owner/other")
    assert sorted(await numbers(client, HERE)) == [good, bad, still]
    assert await numbers(client, f"{HERE}?branch=main") == [bad]
    assert sorted(await numbers(client, f"{HERE}?state=failed")) == [bad, still]
    assert sorted(await numbers(client, "/feed.atom")) == [good, bad, still, other]
    assert sorted(await numbers(client, "/feed.atom?state=failed")) == [
        bad,
        still,
        other,
    ]
    first = (await feed(client, f"{HERE}?state=succeeded")).find(f"{A}entry")
    assert first is not None
    assert first.findtext(f"{A}id") == f"http://build-server:8000/builds/{good}"
    assert first.findtext(f"{A}updated") == "1970-01-01T00:50:00.000Z"
    assert first.findtext(f"{A}title") == f"✓ #{good} succeeded {REPO} dev: commit 1"
    assert "2 targets built" in (first.findtext(f"{A}summary") or "")
    assert first.findtext(f"{A}author/{A}name") == "Ada"


async def test_changes_are_told_once(served: Served, client: Private) -> None:
    states = [S.SUCCEEDED, S.FAILED, S.FAILED, S.ERROR, S.FAILED, S.SUCCEEDED]
    built = [await served.add(n, state) for n, state in enumerate(states, 1)]
    await served.add(20, S.FAILED, repo="owner/gone")
    for path in (f"{HERE}?changed=1", "/feed.atom?changed=1"):
        assert await numbers(client, path) == [built[5], built[1]]
    assert await numbers(client, f"{HERE}?changed=1&branch=main") == []
    assert await numbers(client, f"{HERE}?changed=1&state=failed") == [built[1]]


async def test_feed_refuses_what_it_does_not_know(client: Private) -> None:
    await error_of(client, "GET", f"{HERE}?changed=maybe", 400)
    await error_of(client, "GET", "/feed.atom?branch=dev", 400)
    await error_of(client, "GET", "/feed.atom?state=broken", 400)


async def test_hostile_words_do_no_harm(served: Served, client: Private) -> None:
    await served.add(1, S.FAILED, title=HOSTILE, branch=HOSTILE, summary=HOSTILE)
    (entry,) = (await feed(client, HERE)).findall(f"{A}entry")
    title = entry.findtext(f"{A}title") or ""
    assert "<script>alert(1)</script>" in title
    assert "\\x1b]8;;x\\x07\\x9b31m\\u202etfel\\r\\nforged\\ufffe\\x00" in title
    assert title.isprintable()
    (found,) = (await feed(client, "/feed.atom")).findall(f"{A}entry")
    assert found.findtext(f"{A}title") == title
