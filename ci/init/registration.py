"""The webhook on GitHub: made, or put right, or in words for whoever must click."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ci.adapters.github import GitHub, hooks
from ci.adapters.github.hooks import Hook
from ci.config import Settings
from ci.errors import GitHubError, GitHubRefused
from ci.text import printable

# A secret that was made within a moment of the webhook belongs to it.
SAME_MOMENT_MS = 2000
UNAUTHORISED = 401
NO_ADDRESS = "https://HOST.TAILNET.ts.net/webhook (once Funnel is open)"


@dataclass(frozen=True)
class Wanted:
    """The webhook that should be there; `made_at`: when the secret was made (ms)."""

    repo: str
    url: str
    secret: str
    made_at: int


@dataclass(frozen=True)
class Registered:
    """What became of it: sentences, and whether GitHub has it now as it should be."""

    good: bool
    changed: bool
    said: tuple[str, ...]


async def register(github: GitHub, wanted: Wanted) -> Registered:
    """Make the webhook, or put it right, and have it pinged. Raises nothing of GitHub's."""
    try:
        return await _register(github, wanted)
    except GitHubRefused as error:
        said = f"GitHub does not let this token see or change webhooks: {error}"
        return Registered(False, False, (printable(said),))
    except GitHubError as error:
        said = f"the webhook could not be registered now: {error}; run it again"
        return Registered(False, False, (printable(said),))


async def _register(github: GitHub, wanted: Wanted) -> Registered:
    there = await hooks.listed(github, wanted.repo)
    ours = _ours(there, wanted.url)
    if ours is None:
        made = await hooks.create(github, wanted.repo, wanted.url, wanted.secret)
        said = f"made on GitHub: hook {made} of {wanted.repo}; GitHub pings it now"
        return Registered(True, True, (said, *_strangers(there)))
    reasons = list(_differences(ours, wanted, github.clock_skew or 0.0))
    if reasons:
        await hooks.update(github, wanted.repo, ours, wanted.url, wanted.secret)
        said = f"hook {ours.id} of {wanted.repo} put right: {'; '.join(reasons)}"
    else:
        said = f"hook {ours.id} of {wanted.repo} is there as it should be, unchanged"
    await hooks.ping(github, wanted.repo, ours.id)
    return Registered(True, bool(reasons), (said, "GitHub was asked to ping it"))


def _ours(there: Sequence[Hook], url: str) -> Hook | None:
    """The webhook that delivers to `url`, else one to the same host."""
    exact = [hook for hook in there if hook.url == url]
    host = urlsplit(url).hostname
    near = [hook for hook in there if urlsplit(hook.url).hostname == host]
    return next(iter([*exact, *near]), None)


def _strangers(there: Sequence[Hook]) -> Iterator[str]:
    """Addresses of others may be secrets themselves: they are only counted."""
    if there:
        yield f"{len(there)} other webhooks of the repository were left alone"


def _differences(hook: Hook, wanted: Wanted, skew: float) -> Iterator[str]:
    """What must change. GitHub never tells a secret: its age and the last answer do."""
    if hook.url != wanted.url:
        yield f"its address is now {wanted.url}"
    if hook.content_type != "json":
        yield "it sends application/json now"
    if not hooks.sends_pushes(hook):
        yield "it sends pushes now"
    if not hook.active:
        yield "it is active now"
    if not hook.verifies_tls:
        yield "it verifies certificates now"
    if not hook.has_secret:
        yield "it has the secret now"
    elif hook.updated_at - skew * 1000 + SAME_MOMENT_MS < wanted.made_at:
        yield "it has the new secret now"
    elif hook.last_code == UNAUTHORISED:
        yield "its last delivery was refused as unsigned: it has the secret now"


def by_hand(settings: Settings, secret_file: str, secret: str = "") -> list[str]:
    """What to click on GitHub, and what to write where; the secret only if given."""
    github = settings.github
    address = github.public_webhook_url
    return [
        *(
            f"open         {hooks.new_page(github.api_url, repository.name)}"
            for repository in settings.repositories
        ),
        f"Payload URL  {address or NO_ADDRESS}",
        "Content type application/json",
        f"Secret       {secret or f'the content of {secret_file}'}",
        "Events       Just the push event",
        "then         Add webhook",
    ]


def permission() -> list[str]:
    """How a token gets to make webhooks."""
    return [
        "a fine-grained token does it: https://github.com/settings/personal-access-tokens",
        "Repository permissions: Webhooks: Read and write (besides Contents: Read-only, "
        "Commit statuses: Read and write)",
    ]


async def ping_all(github: GitHub, settings: Settings) -> tuple[bool, str]:
    """Have GitHub ping our webhook of each repository; what it said to that."""
    url = settings.github.public_webhook_url.rstrip("/")
    if not url:
        return False, "which webhook is ours is not known: write public_webhook_url"
    asked: list[str] = []
    for repository in settings.repositories:
        try:
            for hook in await hooks.find(github, repository.name, url):
                await hooks.ping(github, repository.name, hook)
                asked.append(f"hook {hook} of {repository.name}")
        except GitHubError as error:
            return False, printable(f"GitHub did not: {error}")
    if not asked:
        return False, f"no webhook on GitHub delivers to {url}"
    return True, f"GitHub was asked to ping {', '.join(asked)}"
