"""How git is called here so that nobody else has a say, and what its errors mean.

Git reads configuration, hooks and helpers from many places; each is switched off. Its
messages are read in the C locale, because its exit code is 128 for everything.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from ci.errors import (
    BuildServerError,
    CommitVanished,
    DiskFull,
    HostFault,
    NetworkDown,
    RemoteRefused,
)

PASSED_ON = (
    "PATH",
    "BUILD_SERVER_INSTANCE",
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "GIT_SSL_CAINFO"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSH_AUTH_SOCK", "USER"),
)
# Never a prompt, and an end to a peer that went away without a word.
SSH = "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=15"
SAFE = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "protocol.version=2"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
    # Nothing here is slow without them, and each is one more file that can be damaged.
    *("-c", "core.commitGraph=false"),
    *("-c", "core.multiPackIndex=false"),
    *("-c", "gc.writeCommitGraph=false"),
    *("-c", "repack.writeBitmaps=false"),
)
# What old and honest histories are full of, and what no program of ours minds; GitHub
# itself accepts it. Everything that is dangerous to check out stays refused.
HARMLESS = ("badTimezone", "missingSpaceBeforeDate", "zeroPaddedFilemode")
FETCH = (
    *("-c", "fetch.fsckObjects=true"),
    *(part for name in HARMLESS for part in ("-c", f"fetch.fsck.{name}=ignore")),
    "fetch",
    "--quiet",
    "--force",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-maintenance",
    "--no-show-forced-updates",
    "--refmap=",
    "--",
)
# Reads everything: for when git fails and there is no telling why.
FSCK = (
    *(part for name in HARMLESS for part in ("-c", f"fsck.{name}=ignore")),
    "fsck",
    "--no-dangling",
    "--no-progress",
)
# A peer that sends fewer bytes a second than this for a while has gone away.
LOW_SPEED = 1000


def network(stall: int) -> tuple[str, ...]:
    """Options for talking to a remote; `stall` is the seconds that one may be slow."""
    return (
        *("-c", "http.followRedirects=false"),
        *("-c", f"http.lowSpeedLimit={LOW_SPEED}"),
        *("-c", f"http.lowSpeedTime={stall}"),
    )


def environment(environ: Mapping[str, str], allow: str) -> dict[str, str]:
    """All that git may know; `allow` is the one protocol it may speak."""
    return {
        **{name: environ[name] for name in PASSED_ON if name in environ},
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": allow,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_SSH_COMMAND": SSH,
        "GIT_TERMINAL_PROMPT": "0",
    }


def protocol(url: str) -> str:
    """`https`, `http`, `ssh` or `file`: what git speaks with that address."""
    if url.startswith("/"):
        return "file"
    return urlsplit(url).scheme if "://" in url else "ssh"


def credential(url: str, token: str) -> dict[str, str]:
    """Variables that make git send `token` to the origin of `url`, and nowhere else.

    Not an argument: those of every process can be read by everybody on this host.
    """
    parts = urlsplit(url)
    basic = base64.b64encode(f"x-access-token:{token}".encode()).decode()
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{parts.netloc}/.extraHeader",
        "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
    }


def _any(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(parts))


# What git says about its own files; the other side's words begin with "remote:".
DAMAGE = re.compile(
    r"^(?:error|fatal): (?!remote).*(?:"
    r"is far too short to be a packfile|does not match index|index file .* is too small"
    r"|is corrupt(?!ed)|object file .* is empty|inflate: |unable to unpack|bad object refs/"
    r"|not a git repository|bad config line|bad numeric config value"
    r"|(?:unterminated|unexpected) line in .*packed-refs"
    r"|unable to read (?:tree|sha1 file)|failed to traverse parents|bad tree object"
    r"|packfile .* cannot be accessed|missing (?:blob|tree|commit) object)",
    re.MULTILINE,
)
VANISHED = _any(
    "not our ref",
    "[Cc]ouldn't find remote ref",
    "no such remote ref",
    "unadvertised object",
    "nonexistent object",
    "bad object [0-9a-f]{40}",
    "[Nn]ot a valid (?:commit|object) name",
    "not a tree object",
)
# Git takes any page for a server of the oldest kind, and looks there for files: a login
# page in between is then an empty repository, or one that is full of damage.
NO_GIT = _any(
    "Unable to find [0-9a-f]+ under ",
    "Cannot obtain needed object",
    "info/refs not valid",
)
NO_SPACE = _any("No space left on device", "Disk quota exceeded")
# SIGXFSZ: the limit that the runner sets for each file.
TOO_LARGE = _any("died of signal 25", "File too large")
REFUSED = _any(
    "Authentication failed",
    "could not read (?:Username|Password)",
    r"Permission denied \(",
    "returned error: 40[13]",
    "Host key verification failed",
)
NOT_FOUND = _any(
    "returned error: 404",
    "[Rr]epository .*not found",
    "does not appear to be a git repository",
)
MOVED = _any("returned error: 30[1278]", "unable to update url base from redirection")
UNREACHABLE = _any(
    "[Cc]ould(?: not|n't) (?:resolve|connect)",
    "Failed to connect",
    "Connection (?:refused|timed out|reset|closed)",
    "timed out",
    "Network is unreachable",
    "No route to host",
    "hung up",
    "early EOF",
    "unexpected disconnect",
    "Operation too slow",
    "RPC failed",
    "Empty reply",
    "(?:Recv|Send) failure",
    "SSL_|TLS connection|[Gg]nu[Tt][Ll][Ss]",
    "transfer closed",
    "returned error: (?:408|429|5[0-9][0-9])",
    "name resolution",
    "protocol error",
    "expected (?:flush|packet|'packfile')",
    "invalid server response",
    "Could not read from remote repository",
    "unable to access '",
    "index-pack|unpack-objects|did not (?:send|receive) ",
)
# Both a remote that sends rubbish and a mirror that holds some end like that.
OF_EITHER = _any("index-pack|unpack-objects|did not (?:send|receive) ", "early EOF")
LOCKED = _any(r"\.lock': File exists")


def fault(stderr: str, url: str) -> BuildServerError:
    """The exception for what git said on failing: whose fault, and what to do."""
    said = sentence(stderr)
    if NO_GIT.search(stderr):
        return no_git(url)
    if VANISHED.search(stderr):
        return CommitVanished(f"{url} no longer has this commit: {said}")
    if NO_SPACE.search(stderr):
        return DiskFull(f"no room for git's mirror: {said}")
    if TOO_LARGE.search(stderr):
        return DiskFull(f"{url} sends more than half of what is free for the mirror")
    if REFUSED.search(stderr):
        return RemoteRefused(
            f"{url} did not let us in: {said}; check github.token_file (the token needs "
            "to read the contents of this repository) or the SSH key of the service"
        )
    if MOVED.search(stderr):
        return HostFault(f"{url} has moved: write its new url in the configuration")
    if NOT_FOUND.search(stderr):
        return HostFault(
            f"there is no repository at {url}, or none that our token may see: {said}; "
            "check its url and github.token_file"
        )
    if "certificate" in stderr:
        # A login page in between looks like that, and so does a clock that is wrong.
        return NetworkDown(
            f"{url} could not prove who it is: {said}; check this host's clock and its "
            "certificates"
        )
    if UNREACHABLE.search(stderr):
        return NetworkDown(f"{url} could not be reached: {said}")
    return HostFault(f"git failed: {said}")


def doubtful(stderr: str) -> bool:
    """Whether damage of the repository's own files may be behind this failure."""
    if NO_GIT.search(stderr) or LOCKED.search(stderr) or "certificate" in stderr:
        return False
    if OF_EITHER.search(stderr):
        return True
    known = (VANISHED, NO_SPACE, TOO_LARGE, REFUSED, MOVED, NOT_FOUND, UNREACHABLE)
    return not any(pattern.search(stderr) for pattern in known)


def no_git(url: str) -> NetworkDown:
    """Something answers there, which is not the remote."""
    return NetworkDown(
        f"what answers at {url} is no git server: is there a proxy or a login page in "
        "between?"
    )


def sentence(stderr: str) -> str:
    """The most telling line, without what a terminal would obey."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "error:", "ssh:"))]
    line = (telling or lines or ["it gave no reason"])[0]
    shown = "".join(char for char in line if char.isprintable())
    return shown.removeprefix("fatal: ").removeprefix("error: ")[:300]
