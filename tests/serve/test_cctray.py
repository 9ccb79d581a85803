"""cc.xml: what build monitors read, with the attributes and words that they insist on."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

from ci.models import BuildState
from tests.serve.conftest import REPO, Private, Served, error_of
from tests.serve.reading import HOSTILE

S = BuildState
HERE = f"/repos/{REPO}/cc.xml"
BASE = "http://build-server:8000"
# cctray.org/v1: these are required, and nothing else may be said in these two.
REQUIRED = {
    *("name", "activity", "lastBuildStatus"),
    *("lastBuildLabel", "lastBuildTime", "webUrl"),
}
ACTIVITIES = {"Sleeping", "Building", "CheckingModifications"}
STATUSES = {"Success", "Failure", "Exception", "Unknown"}


async def projects(client: Private, path: str) -> dict[str, dict[str, str]]:
    """The attributes of each Project by its name, which must be what monitors expect."""
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/xml"
        assert response.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; base-uri 'none'"
        )
        root = ET.fromstring(await response.read())  # noqa: S314 — our own
    assert root.tag == "Projects"
    found = {}
    for each in root:
        assert each.tag == "Project"
        assert set(each.attrib) == REQUIRED
        assert each.attrib["activity"] in ACTIVITIES
        assert each.attrib["lastBuildStatus"] in STATUSES
        datetime.fromisoformat(each.attrib["lastBuildTime"])
        assert all(value.isprintable() for value in each.attrib.values())
        found[each.attrib["name"]] = each.attrib
    assert len(found) == len(root)
    return found


async def test_there_is_a_project_for_each_watched_branch(
    served: Served, client: Private
) -> None:
    never = await projects(client, HERE)
    assert list(never) == [f"{REPO} dev", f"{REPO} main"]
    assert never[f"{REPO} main"] == {
        "name": f"{REPO} main",
        "activity": "Sleeping",
        "lastBuildStatus": "Unknown",
        "lastBuildLabel": "",
        "lastBuildTime": "1970-01-01T00:00:00.000Z",
        "webUrl": f"{BASE}/repos/{REPO}?branch=main",
    }
    bad = await served.add(1, S.FAILED)
    await served.add(2, S.SUCCEEDED, branch="elsewhere")
    await served.add(3, S.SUCCEEDED, repo="owner/gone")
    told = await projects(client, HERE)
    assert told == await projects(client, "/cc.xml")
    assert told[f"{REPO} dev"]["lastBuildLabel"] == str(bad)
    assert told[f"{REPO} dev"]["lastBuildTime"] == "1970-01-01T00:50:00.000Z"
    assert list(await projects(client, f"{HERE}?branch=dev")) == [f"{REPO} dev"]
    assert list(await projects(client, "/repos/owner/gone/cc.xml")) == [
        "owner/gone dev"
    ]


async def test_the_newest_finished_build_is_the_status_whatever_runs(
    served: Served, client: Private
) -> None:
    words = {
        S.SUCCEEDED: "Success",
        S.FAILED: "Failure",
        S.ERROR: "Exception",
        S.CANCELLED: "Unknown",
    }
    told: dict[str, str] = {}
    for number, (state, word) in enumerate(words.items(), 1):
        build = await served.add(number, state)
        await served.add(100 + number, S.SKIPPED)
        told = (await projects(client, HERE))[f"{REPO} dev"]
        assert (told["lastBuildStatus"], told["lastBuildLabel"]) == (word, str(build))
        assert told["activity"] == "Sleeping"
    running = await served.add(50)
    waiting = (await projects(client, HERE))[f"{REPO} dev"]
    assert waiting == told
    await served.begin(running)
    now = await projects(client, HERE)
    assert now[f"{REPO} dev"] == {**told, "activity": "Building"}
    assert now[f"{REPO} main"]["activity"] == "Sleeping"


async def test_it_is_sent_again_only_when_something_has_changed(
    served: Served, client: Private
) -> None:
    tag = ""
    for path in (HERE, "/cc.xml"):
        async with client.get(path) as response:
            tag = response.headers["ETag"]
        async with client.get(path, headers={"If-None-Match": tag}) as response:
            assert response.status == 304
    await served.add(1, S.SUCCEEDED)
    async with client.get(HERE, headers={"If-None-Match": tag}) as response:
        assert response.status == 200
    await error_of(client, "GET", f"{HERE}?state=failed", 400)
    await error_of(client, "GET", "/cc.xml?branch=dev", 400)
    await error_of(client, "GET", "/repos/nobody/knows/cc.xml", 404)


async def test_a_branch_named_to_harm_is_only_a_name(
    served: Served, client: Private
) -> None:
    await served.add(1, S.FAILED, branch=HOSTILE, repo="owner/gone")
    (told,) = (await projects(client, "/repos/owner/gone/cc.xml")).values()
    assert "<script>alert(1)</script>" in told["name"]
    assert "\\x1b]8;;x\\x07\\x9b31m\\u202etfel\\r\\nforged\\ufffe\\x00" in told["name"]
    # The link still leads to that branch.
    link = urlsplit(told["webUrl"])
    assert link.path == "/repos/owner/gone"
    assert parse_qs(link.query) == {"branch": [HOSTILE]}
