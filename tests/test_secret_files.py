"""Secrets are read from files, and said nowhere."""

from __future__ import annotations

import json
import tomllib
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ci import config
from ci.config import Secrets
from ci.errors import ConfigurationError

MINIMAL = '[[repository]]\nname = "owner/name"\n'
NO_WEBHOOK = "[github]\nwebhook = false\n"
CANARY = "ghp_c4n4ryC4N4RYc4n4ryC4N4RY"
KEY = "build-server-1:" + "A" * 43 + "="


def write(directory: Path, toml: str) -> Path:
    path = directory / "config.toml"
    path.write_text(toml)
    return path


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    return directory


def read(toml: str, environ: Mapping[str, str] = {}) -> Secrets:
    return config.read_secrets(config.parse(tomllib.loads(toml)), environ)


def refusals(toml: str, environ: Mapping[str, str] = {}) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(toml, environ)
    return list(caught.value.problems)


def test_secrets_are_read_from_files_and_stripped(tmp_path: Path) -> None:
    for name in ("new", "old", "token", "api"):
        (tmp_path / name).write_text(f"\n  {name}-{CANARY} \n\n")
    secrets = read(
        f"""
        [github]
        webhook_secret_file = ["{tmp_path}/new", "{tmp_path}/old"]
        token_file = "{tmp_path}/token"
        [api]
        token_file = "{tmp_path}/api"
        {MINIMAL}"""
    )
    assert secrets.webhook == (f"new-{CANARY}".encode(), f"old-{CANARY}".encode())
    assert secrets.github_token == f"token-{CANARY}"
    assert secrets.api_token == f"api-{CANARY}"
    assert secrets.app_key is None


def test_credentials_stand_in_for_files_that_are_not_named(credentials: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    for name in ("webhook-secret", "webhook-secret-2", "github-token", "api-token"):
        (credentials / name).write_text(f"{name}-{CANARY}\n")
    pem = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
    (credentials / "github-app-key").write_text(pem)
    secrets = read(MINIMAL, environ)
    assert secrets.webhook == (
        f"webhook-secret-{CANARY}".encode(),
        f"webhook-secret-2-{CANARY}".encode(),
    )
    assert secrets.github_token == f"github-token-{CANARY}"
    assert secrets.api_token == f"api-token-{CANARY}"
    assert secrets.app_key is None
    as_app = read(f"[github]\napp_id = 7\n{MINIMAL}", environ)
    assert (as_app.app_key, as_app.github_token) == (pem, None)


def test_a_service_without_any_secret_may_only_look_for_commits() -> None:
    assert read(NO_WEBHOOK + MINIMAL) == Secrets()
    (problem,) = refusals(MINIMAL)
    assert problem.startswith(
        "github.webhook_secret_file: webhook = true needs a secret"
    )
    (problem,) = refusals("[github]\nwebhook=false\napp_id=7\n" + MINIMAL)
    assert problem.startswith("github.app_key_file: github.app_id needs the App's")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b" \n", "is empty; create it with (umask 077; "),
        (b"fifteen-letters", "holds 15 characters, too few for a secret (16 at least)"),
        (b"SECRET=" + CANARY.encode() + b"\nMORE=x", "must hold the secret alone"),
        (b"two words " + CANARY.encode(), "must hold the secret alone"),
        (b"\xff" * 20, "must hold the secret alone"),
        (b"x" * 70_000, "is too large to be a secret"),
        (None, "does not exist; create it with (umask 077; "),
    ],
)
def test_an_unfit_secret_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "webhook"
    if content is not None:
        path.write_bytes(content)
    toml = f'[github]\nwebhook_secret_file = "{path}"\n{MINIMAL}'
    (problem,) = refusals(toml)
    assert problem.startswith(f"github.webhook_secret_file: {path} {words}")
    assert CANARY not in problem
    with pytest.raises(ConfigurationError):
        config.load(write(tmp_path, toml), environ={})
    unread = config.load(tmp_path / "config.toml", environ={}, secrets=False)
    assert unread.github.webhook_secret_file == (path,)


def test_what_is_no_file_or_no_key_is_refused(tmp_path: Path) -> None:
    (problem,) = refusals(f'[github]\nwebhook_secret_file = "{tmp_path}"\n{MINIMAL}')
    assert "cannot be read (Is a directory)" in problem
    key = tmp_path / "key"
    key.write_text(CANARY)
    (problem,) = refusals(
        f'[github]\nwebhook = false\napp_id = 7\napp_key_file = "{key}"\n{MINIMAL}'
    )
    assert problem.startswith(f"github.app_key_file: {key} is not a private key")


def _misplaced(directory: Path) -> Iterator[str]:
    """Configurations in which the canary stands where a secret must not, or is unfit."""
    for key in ("token_file", "webhook_secret_file", "app_key_file", "app_id"):
        yield f'[github]\n{key} = "{CANARY}"\n'
        yield f'[github]\n{key} = "/{CANARY}"\n'
        yield f'[github]\n{key} = "/{CANARY}/x"\n'
        yield f'[github]\n{key} = ["{CANARY}"]\n'
        yield f'[github]\n{key} = {{ value = "{CANARY}" }}\n'
    yield f'[github]\ntoken = "{CANARY}"\n'
    yield f'[github]\nwebhook_secret = "{CANARY}"\n'
    yield f'token = "{CANARY}"\n'
    yield f'github = "{CANARY}"\n'
    yield f'[secrets]\ntoken = "{CANARY}"\n'
    yield f'[api]\ntoken = "{CANARY}"\n'
    for key in ("public_url", "github.api_url", "github.public_webhook_url"):
        yield f'{key} = "https://x:{CANARY}@example.org"\n'
        yield f'{key} = "https://example.org/?token={CANARY}"\n'
    yield f'[cache]\npublic_key = "k:{CANARY}"\n'
    yield f'[cache]\npublic_key = "{KEY}"\nurl = "http://{CANARY}@x"\n'
    yield f'[build]\ntimeout = {{ token = "{CANARY}" }}\n'
    yield f'broken = "{CANARY}\n'
    unfit = directory / "unfit"
    unfit.write_text(f"TOKEN={CANARY}\nMORE")
    yield f'[github]\ntoken_file = "{unfit}"\n'
    yield f'[api]\ntoken_file = "{unfit}"\n'


def test_no_error_says_a_secret(tmp_path: Path) -> None:
    seen = 0
    for toml in _misplaced(tmp_path):
        path = write(tmp_path, toml + MINIMAL)
        with pytest.raises(ConfigurationError) as caught:
            config.load(path, environ={})
        error: BaseException | None = caught.value
        said = "".join(traceback.format_exception(caught.value))
        while error is not None:
            said += f"{error} {error!r} {error.args} {vars(error)}"
            said += json.dumps(vars(error), default=repr)
            error = error.__cause__ or error.__context__
        assert CANARY not in said, toml
        seen += 1
    assert seen > 30


def test_no_settings_and_no_secrets_say_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY)
    toml = f"""
        [github]
        webhook_secret_file = "{tmp_path}/secret"
        token_file = "{tmp_path}/secret"
        [api]
        token_file = "{tmp_path}/secret"
        {MINIMAL}"""
    settings = config.load(write(tmp_path, toml), environ={})
    secrets = config.read_secrets(settings, {})
    assert secrets.values() == (CANARY,) * 3
    said = f"{settings} {settings!r} {settings.model_dump_json()} {secrets} {secrets!r}"
    said += json.dumps({"secrets": secrets, "settings": settings}, default=str)
    said += repr(config.secret_paths(settings, {}))
    assert CANARY not in said
    assert repr(secrets) == "<Secrets: webhook, github_token, api_token>"


def test_addresses_of_messages_are_secrets_too(tmp_path: Path) -> None:
    path = tmp_path / "urls"
    table = {"github": {"webhook": False}, "notify": {"urls_file": str(path)}}
    settings = config.parse({**table, "repository": [{"name": "o/n"}]})
    path.write_text(
        "# mine\nntfy://t0pic\nx=mailto://bob:pa55@mail.example?to=c@d.example\n"
    )
    secrets = config.read_secrets(settings, {})
    assert secrets.notify_urls == path.read_text().strip()
    assert repr(secrets) == "<Secrets: notify_urls>"
    # These are kept out of the log.
    assert secrets.values() == ("t0pic", "bob:pa55@mail.example?to=c@d.example")
    for unfit in ("", "t0pic", "ntfy://"):
        path.write_text(unfit)
        with pytest.raises(ConfigurationError, match=r"notify\.urls_file: ") as caught:
            config.read_secrets(settings, {})
        assert "t0pic" not in str(caught.value)
    path.unlink()
    assert (
        config.read_secrets(
            config.parse(
                {"github": {"webhook": False}, "repository": [{"name": "o/n"}]}
            ),
            {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        )
        == Secrets()
    )
    (tmp_path / "notify-urls").write_text("ntfy://t0pic")
    found = config.read_secrets(
        config.parse({"github": {"webhook": False}, "repository": [{"name": "o/n"}]}),
        {"CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    assert found.notify_urls == "ntfy://t0pic"
