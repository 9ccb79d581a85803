"""`/setup`: what is said of each step, in the states that a first run goes through."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci import doctor
from ci.adapters.host import now_ms
from ci.config import Secrets, parse
from ci.doctor.examination import Examination
from ci.door import Door, Fault, Refusal
from ci.history import deliveries, outbox
from ci.history.arrived import NOTHING, Posted
from ci.history.deliveries import Arrival
from ci.models import BuildState, Check
from ci.serve.pages import setup_rows
from ci.serve.pages.setup_rows import Facts
from ci.serve.service import SERVICE, FirstRun
from tests.fakes.waiting import wait_until
from tests.serve.conftest import KEY, REPO, Private, Served, document
from tests.test_doctor import put_program

HOOK = "https://ci.example.ts.net/webhook"
SECRET = "f00d" * 16
WELL = [Check("token", True, "token of octocat"), Check("nix", True, "2.34.9")]


@dataclass
class FirstDay:
    """A server whose doctor, door and GitHub say what the test wants."""

    served: Served
    client: Private
    door: Door
    found: list[Check] | None = field(default_factory=lambda: list(WELL))
    pinged: tuple[bool, str] = (True, "GitHub was asked to ping hook 30 of owner/name")

    looks: int = 0

    async def examine(self) -> list[Check] | None:
        self.looks += 1
        return self.found

    async def ping(self) -> tuple[bool, str]:
        return self.pinged

    async def setup(self) -> dict[str, Any]:
        async with self.client.get("/setup.json") as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    async def row(self, key: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = (await self.setup())["rows"]
        return next(row for row in found if row["key"] == key)

    async def page(self) -> str:
        async with self.client.get("/setup", headers={"Accept": "text/html"}) as page:
            assert page.status == 200
            return await page.text()

    async def deliver(
        self, event: str, reason: str = "", ref: str | None = None
    ) -> None:
        await self.served.database.write(
            deliveries.accept, [_arrival(event, reason, ref)]
        )

    def refuse(self, fault: Fault, media: str = "application/json") -> None:
        signed = fault is Fault.FORM
        self.door.note(Refusal(now_ms() + 1, fault, "30", media, signed))


def _arrival(event: str, reason: str, ref: str | None) -> Arrival:
    return Arrival(
        hook_id="30",
        guid=f"{event}-{ref}-{now_ms()}",
        event=event,
        received_at=now_ms(),
        body_sha256="0" * 64,
        ref=ref,
        before=None,
        after="a" * 40 if ref else None,
        forced=False,
        plan=None,
        reason=reason,
        repo=REPO,
    )


@pytest.fixture
async def day(tmp_path: Path, served: Served) -> AsyncIterator[FirstDay]:
    secret = tmp_path / "webhook-secret"
    secret.write_text(SECRET)
    settings = parse(
        document(
            tmp_path,
            github={"public_webhook_url": HOOK, "webhook_secret_file": str(secret)},
            cache={"public_key": KEY},
        )
    )
    secrets = Secrets(webhook=(SECRET.encode(),), github_token="t0ps3cret" * 3)
    served.settings, served.secrets = settings, secrets
    door = Door(served.wake)
    # The client comes last: what it serves asks the day itself.
    today = FirstDay(served, None, door)  # type: ignore[arg-type]
    first_run = FirstRun(today.examine, door.last, today.ping)
    application = served.application(first_run=first_run)
    async with TestClient(TestServer(application)) as client:
        today.client = client
        yield today


async def test_at_first_everything_waits(day: FirstDay) -> None:
    setup = await day.setup()
    assert setup["first_run"]
    assert setup["state"] == "waiting"
    states = {row["key"]: row["state"] for row in setup["rows"]}
    assert states == {
        "address": "look",
        "credential": "well",
        "webhook": "waiting",
        "push": "waiting",
        "host": "well",
        "status": "waiting",
        "machines": "waiting",
        "notifications": "optional",
        "badge": "optional",
    }
    assert "waiting for a ping…" in await day.page()
    host = await day.row("host")
    assert host["copy_lines"] == [
        "extra-substituters = http://build-server:5000",
        f"extra-trusted-public-keys = {KEY}",
    ]


async def test_a_ping_that_came_is_told(day: FirstDay) -> None:
    await day.deliver("ping", "ping: the webhook works")
    row = await day.row("webhook")
    assert row["state"] == "well"
    assert re.fullmatch(r"ping [\d:]{8} UTC from hook 30, signature ok", row["seen"])


async def test_a_ping_of_a_webhook_that_sends_no_pushes_is_no_success(
    day: FirstDay,
) -> None:
    await day.deliver("ping", "this webhook does not send push events; choose them")
    row = await day.row("webhook")
    assert row["state"] == "wrong"
    assert "does not send push events" in row["seen"]


@pytest.mark.parametrize(
    ("fault", "media", "seen", "fix"),
    [
        (Fault.SIGNATURE, "", "the secret differs", "webhook-secret"),
        (Fault.UNSIGNED, "", "has no secret", "webhook-secret"),
        (
            Fault.FORM,
            "application/x-www-form-urlencoded",
            "came as application/x-www-form-urlencoded, signature ok",
            "choose application/json",
        ),
    ],
)
async def test_a_refused_ping_says_what_to_change(
    day: FirstDay, fault: Fault, media: str, seen: str, fix: str
) -> None:
    day.refuse(fault, media)
    row = await day.row("webhook")
    assert row["state"] == "wrong"
    assert seen in row["seen"]
    assert fix in row["fix"]
    assert (await day.setup())["state"] == "wrong"


async def test_a_later_signature_that_fits_ends_the_complaint(day: FirstDay) -> None:
    refusal = Refusal(now_ms() - 10, Fault.SIGNATURE, "30", "", signed=False)
    day.door.note(refusal)
    assert (await day.row("webhook"))["state"] == "wrong"
    await day.deliver("ping", "ping: the webhook works")
    assert (await day.row("webhook"))["state"] == "well"


async def test_a_stranger_cannot_undo_what_was_signed(day: FirstDay) -> None:
    await day.deliver("ping", "ping: the webhook works")
    day.refuse(Fault.SIGNATURE)
    row = await day.row("webhook")
    assert row["state"] == "look"
    assert "signature ok" in row["seen"]


async def test_a_push_to_another_branch_is_listed_with_why(day: FirstDay) -> None:
    why = "branch main of owner/name is not built; built: dev"
    await day.deliver("push", why, "refs/heads/main")
    row = await day.row("push")
    assert row["state"] == "waiting"
    (note,) = row["notes"]
    assert note.endswith(f"push to main: {why}")


async def test_after_the_first_build_the_page_is_the_health(day: FirstDay) -> None:
    number = await day.served.add(1, BuildState.SUCCEEDED)
    setup = await day.setup()
    assert not setup["first_run"]
    assert "<h1>Health</h1>" in await day.page()
    item = await day.served.database.read(outbox.due, now_ms())
    assert item is not None
    await day.served.database.write(outbox.sent, item.id, now_ms())
    row = await day.row("status")
    assert row["state"] == "well"
    assert f"of build #{number} posted" in row["seen"]


async def test_a_link_that_was_opened_on_github_is_seen(
    day: FirstDay, tmp_path: Path
) -> None:
    number = await day.served.add(1, BuildState.SUCCEEDED)
    item = await day.served.database.read(outbox.due, now_ms())
    assert item is not None
    await day.served.database.write(outbox.sent, item.id, now_ms())
    for path, whence in (
        (f"/builds/{number}", ""),
        (f"/builds/{number}", "https://github.com.example.org/o/n"),
        (f"/builds/{number}", "https://github.com@example.org/"),
        (f"/builds/{number}", "http://github.com/"),
        (f"/builds/{number}", "https://[github.com/"),
        (f"/builds/{number + 1}", "https://github.com/o/n"),
        ("/builds", "https://github.com/o/n"),
    ):
        await day.client.get(path, headers={"Referer": whence} if whence else {})
        row = await day.row("status")
        assert "github.com" not in row["seen"], (path, whence)
        (note,) = row["notes"]
        assert note.startswith("open it from GitHub")
        assert "browsers do not tell plain http" in note
    whence = "https://github.com/owner/name/commits/dev"
    await day.client.get(f"/builds/{number}", headers={"Referer": whence})
    row = await day.row("status")
    assert re.search(
        r"; its link was opened on github\.com, [0-9:]{8} UTC$", row["seen"]
    )
    assert not row["notes"]


def test_over_https_the_page_promises_to_see_it(tmp_path: Path) -> None:
    settings = parse(document(tmp_path, public_url="https://ci.example.ts.net"))
    posted = Posted(at=1, build=1, context="build-server", state="success")
    facts = Facts(settings, replace(NOTHING, posted=posted), [], [])
    (row,) = [row for row in setup_rows.rows(facts) if row.key == "status"]
    assert row.notes == (
        "open it from GitHub, by Details beside the commit's mark: this row then says "
        "so, until the server is started again",
    )


async def test_dead_letters_are_listed(day: FirstDay) -> None:
    number = await day.served.add(1, BuildState.FAILED)
    item = await day.served.database.read(outbox.due, now_ms())
    assert item is not None
    await day.served.database.write(outbox.dead, item.id, "422 too long")
    (note,) = (await day.row("status"))["notes"]
    assert note == f"refused for good: build-server of build #{number}: 422 too long"


async def test_a_machine_that_asks_with_the_client_is_seen(day: FirstDay) -> None:
    await day.client.get("/build/status", headers={"User-Agent": "curl/8"})
    assert (await day.row("machines"))["state"] == "waiting"
    agent = {"User-Agent": "build-client/0.1.0"}
    await day.client.get("/build/status", headers=agent)
    row = await day.row("machines")
    assert row["state"] == "well"
    assert row["seen"].startswith("seen from 127.0.0.1 (")


async def test_the_button_asks_github_and_the_page_says_what_came(
    day: FirstDay,
) -> None:
    assert "Ask GitHub to ping" in await day.page()
    form = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    async with day.client.post(
        "/setup/ping", data=b"", headers=form, allow_redirects=False
    ) as response:
        assert response.status == 303
        assert response.headers["Location"] == "/setup"
    assert day.pinged[1] in await day.page()
    day.pinged = (False, "GitHub did not: 403")
    async with day.client.post("/setup/ping") as response:
        answer = {"asked": False, "message": "GitHub did not: 403"}
        assert await response.json() == answer


@pytest.mark.parametrize(
    ("every", "said"), [("10m", "by looking every 10m"), ("never", "nobody finds")]
)
async def test_without_a_public_address_it_says_what_happens_instead(
    served: Served, every: str, said: str
) -> None:
    github = {"reconcile_every": every}
    served.settings = parse(document(served.settings.state_dir, github=github))
    async with (
        TestClient(TestServer(served.application())) as client,
        client.get("/setup.txt") as page,
    ):
        assert said in await page.text()


async def test_an_open_page_hears_that_a_ping_came(day: FirstDay) -> None:
    assert day.client.app is not None
    day.client.app[SERVICE].news.check_every = 0.01
    assert 'data-events="/events?setup=1"' in await day.page()
    async with asyncio.timeout(20), day.client.get("/events?setup=1") as news:
        lines = aiter(news.content)
        await _first(lines, b"event: hello")
        # What came before the end of the first look is on the page already.
        await wait_until(lambda: day.looks > 2, what="the end of the first look")
        await day.deliver("ping", "ping: the webhook works")
        await _first(lines, b"event: setup")
        assert b'"webhook"' in await _first(lines, b"data:")


async def _first(lines: AsyncIterator[bytes], wanted: bytes) -> bytes:
    async for line in lines:
        if line.startswith(wanted):
            return line
    raise AssertionError(f"the stream ended without {wanted!r}")


async def test_without_a_credential_there_is_no_button(day: FirstDay) -> None:
    day.served.secrets = replace(day.served.secrets, github_token=None)
    assert "Ask GitHub to ping" not in await day.page()


async def test_no_secret_and_no_script_comes_out(day: FirstDay) -> None:
    """Whatever a stranger claims and a branch is called, in all three forms."""
    evil = "<script>alert(1)</script>\x1b[31m\u202e"
    await day.deliver("push", f"branch {evil} is not built", f"refs/heads/{evil}")
    day.refuse(Fault.FORM, evil)
    page = await day.page()
    text = await (await day.client.get("/setup.txt")).text()
    whole = page + text + str(await day.setup())
    assert SECRET not in whole
    assert "t0ps3cret" not in whole
    assert "<script>alert" not in page
    assert "\x1b" not in page + text
    assert "\u202e" not in page + text


async def test_a_history_that_fails_is_a_finding(day: FirstDay) -> None:
    await day.served.database.write(lambda c: c.execute("DROP TABLE outbox"))
    setup = await day.setup()
    assert setup["state"] == "wrong"
    assert "history" in [check["name"] for check in setup["checks"] if not check["ok"]]


async def test_the_doctor_and_the_page_find_the_same(
    day: FirstDay, tmp_path: Path
) -> None:
    """The same faults, and the same sentences: there is one set of examinations."""
    put_program(tmp_path / "bin", "git", "echo git version 2.40.0")
    environ = {"PATH": str(tmp_path / "bin")}
    # Nobody outside is asked for the time: who answers once may not answer again.
    github = {"api_url": "http://127.0.0.1:9", "public_webhook_url": HOOK}
    cache = {"public_key": KEY}
    settings = parse(document(tmp_path, github=github, cache=cache))

    async def look() -> list[Check]:
        return await doctor.checks(settings, Secrets(), environ)

    examination = Examination(look, day.served.wake, patience=300)
    day.found = await examination()
    shown = [
        (check["name"], check["ok"], check["fix"])
        for check in (await day.setup())["checks"]
        if check["by"] == "doctor"
    ]
    found = await look()
    assert shown == [
        (check.name, check.ok, "" if check.ok else check.fix) for check in found
    ]
    bad = {name for name, ok, _ in shown if not ok}
    assert {"git", "nix", "token", "cache"} <= bad
    page = await day.page()
    assert page.count("is-wrong") >= len(bad)


class SlowDoctor:
    """Looks until it is let go, and says what it is told."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.found = list(WELL)
        self.looks = 0

    async def __call__(self) -> list[Check]:
        self.looks += 1
        await self.go.wait()
        return self.found


async def test_nobody_waits_long_for_the_doctor(day: FirstDay) -> None:
    slow, told = SlowDoctor(), asyncio.Event()
    examination = Examination(slow, told.set, patience=0.01)
    assert await examination() is None
    day.found = None
    assert "The doctor is still looking…" in await day.page()
    assert (await day.row("credential"))["seen"] == "still looking…"
    slow.go.set()
    await told.wait()
    assert await examination() == WELL
    assert await examination() == WELL
    assert slow.looks == 1
    await examination.close()


async def test_a_doctor_that_looks_again_tells_only_what_is_new() -> None:
    slow, news = SlowDoctor(), []
    slow.go.set()
    examination = Examination(slow, lambda: news.append(slow.looks), fresh=0)
    await examination()
    slow.found = [replace(WELL[0], detail="token of another"), WELL[1]]
    assert await examination() == slow.found
    assert news == [1]
    slow.found = [replace(WELL[0], ok=False), WELL[1]]
    await examination()
    assert news == [1, 3]


async def test_a_doctor_that_breaks_is_a_finding() -> None:
    async def broken() -> list[Check]:
        raise ZeroDivisionError

    ring: Callable[[], None] = asyncio.Event().set
    (check,) = await Examination(broken, ring)() or []
    assert not check.ok
    assert "ZeroDivisionError" in check.detail
