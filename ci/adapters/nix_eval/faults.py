"""What Nix prints when it fails, turned into one line and into whose fault it is.

The wordings were recorded from Nix 2.8.0 and 2.34.8; both are known here, because they
differ in nearly every message. Nothing here does I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ci.adapters.telling import cut
from ci.errors import (
    BuildServerError,
    CommitFault,
    DaemonLost,
    DiskFull,
    HostFault,
    HostLimit,
    NetworkDown,
)

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
LONGEST = 1000
SILENT = "Nix failed and said nothing"
STORE_HASH = r"[0-9a-df-np-sv-z]{32}-"
ERROR_LINE = re.compile(r"^[ \t]*error:[ \t]*(.*)$", re.MULTILINE)
POSITION = re.compile(
    r"^[ \t]*(?:at|.* located at) (\S+?):(\d+)(?::\d+)?:?$", re.MULTILINE
)
DID_YOU_MEAN = re.compile(r"^[ \t]*Did you mean (.*?)\??$", re.MULTILINE)
PLACED = re.compile(r"(.*) \(([^\s()]+:\d+)\)")
OURS = "at «string»:"
ASSERTION = re.compile(r"… while evaluating the condition of the (assertion '.*')$")
# How NixOS and home-manager tell which of their modules' assertions do not hold.
FAILED = re.compile(r"\s*Failed assertions:\s*\n((?:[ \t]*- .*(?:\n|$))+)")
REASON = re.compile(r"\s*Reason: (.*?)\.?(?:\n|$)")
ACCESSOR = re.compile(r"«([^«»?\n]*)(?:\?[^«»\n]*)?»")

OUT_OF_MEMORY = re.compile(
    r"^GC Warning: Out of Memory!|^Insufficient space for initial table allocation"
    r"|^[ \t]*error: (?:out of memory|std::bad_alloc)|^  what\(\):  std::bad_alloc",
    re.MULTILINE,
)
HOST_TROUBLE: tuple[tuple[re.Pattern[str], type[HostFault]], ...] = (
    (re.compile(r": No space left on device$|database or disk is full"), DiskFull),
    (
        re.compile(
            r"^cannot connect to (?:socket|daemon) at|[Nn]ix daemon disconnected"
            r"|^cannot open connection to remote store|^unexpected end-of-file$"
        ),
        DaemonLost,
    ),
)
DOWNLOAD = re.compile(r"unable to download '[^']*': [^\n)]*[^\n):;]")
HASH_MISMATCH = re.compile(r"^NAR hash mismatch|^mismatch in field '")
NETWORK_TROUBLE = re.compile(
    r"[Cc]ould(?:n't| not) (?:resolve|connect)|Connection (?:refused|reset|timed out)"
    r"|Timeout was reached|Operation timed out|Network is unreachable|No route to host"
    r"|Temporary failure in name resolution|HTTP error (?:429|5\d\d)"
    # How a transfer ends that the network cut short; the numbers are libcurl's.
    r"|HTTP error 200"
    r"|': [^\n(]{0,99}(?:\([^\n)]{0,99}\))? \((?:5|6|7|16|18|28|35|52|55|56|60|92)\)"
)
NO_NETWORK = (
    ", but it has none: make it a flake input, so that flake.lock pins it and it is "
    "fetched beforehand"
)
ASKED_NETWORK = re.compile(
    r"unable to download '|program 'git' failed|[Ff]ailed to fetch git repository '"
)
CLEARER: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"cannot build '(?P<what>[^']*?)(?:\.drv)?(?:[\^!][^']*)?' during evaluation "
            r"because the option 'allow-import-from-derivation' is disabled.*"
        ),
        "import from derivation is off: set `import_from_derivation = true` for this "
        "repository to allow it (it needs `{what}` built first)",
    ),
    (
        re.compile(r"cannot update (?:unlocked )?flake input '(?P<what>[^']*)'.*"),
        "flake.lock does not lock the input `{what}`: run `nix flake lock` and commit "
        "flake.lock",
    ),
    (
        re.compile(
            r".*(?:unable to download|failed to fetch git repository) '(?P<what>[^']*)'.*",
            re.IGNORECASE,
        ),
        f"evaluation asked the network for {{what}}{NO_NETWORK}",
    ),
    (
        re.compile(r"program '(?P<what>git)' failed with exit code.*"),
        f"evaluation asked the network, through {{what}}{NO_NETWORK}",
    ),
)


@dataclass(frozen=True)
class Places:
    """How Nix names the flake's own files: `source` its store path, `mirror` its origin.

    `source` is empty while it is not known.
    """

    store_dir: str
    mirror: str
    source: str = ""

    def shorten(self, text: str) -> str:
        """Paths of the flake relative to it, other store paths without their hash."""
        own = [rf"«git\+file://{re.escape(self.mirror)}[^«»\n]*»/?"]
        if self.source:
            own.append(re.escape(self.source) + "/?")
        text = re.sub("|".join(own), "", text)
        text = re.sub(re.escape(self.store_dir) + "/" + STORE_HASH, "", text)
        return ACCESSOR.sub(r"«\1»", text)

    def owns(self, position: str) -> bool:
        """Whether a position of Nix's is in the flake itself."""
        origin = f"«git+file://{self.mirror}"
        inside = bool(self.source) and position.startswith(self.source + "/")
        return inside or position.startswith(origin)


def plain(output: bytes) -> str:
    """Decoded, without colours and carriage returns."""
    text = output.decode("utf-8", errors="replace")
    return ANSI.sub("", text).replace("\r", "\n")


def first_line(output: str, places: Places) -> str:
    """The one line that tells a person what is wrong.

    That is the message of the last `error:` (from 2.19 on the first ones are the trace),
    with the flake's own file and line where Nix tells them. Never empty.
    """
    matches = list(ERROR_LINE.finditer(output))
    if not matches:
        said = [line.strip() for line in output.splitlines() if line.strip()]
        return places.shorten(said[-1][:LONGEST]) if said else SILENT
    last = matches[-1]
    before, after = output[: last.start()], output[last.end() :]
    if failed := FAILED.match(output, last.start(1)):
        sentences = (line.strip().removeprefix("- ") for line in failed[1].splitlines())
        return places.shorten(f"failed assertions: {'; '.join(sentences)}"[:LONGEST])
    # A message may begin on the line after `error:`.
    lines = (line.strip() for line in (last[1], *after.split("\n", 5)))
    message = next(filter(None, lines), SILENT)[:LONGEST]
    if clearer := _clearer(message, places):
        return clearer
    line = places.shorten(_completed(message, before, after))
    position = _position(before, after, places)
    return f"{line} ({position})" if position and position not in line else line


def worded(line: str) -> str:
    """A first line as people are shown it: where it is comes first, and it is short.

    Not before it was judged: `host_fault` looks at how the line ends.
    """
    placed = PLACED.fullmatch(line)
    return cut(f"{placed[2]}: {placed[1]}" if placed else line)


def _completed(message: str, before: str, after: str) -> str:
    """With what Nix says around its message: which assertion, why, what was meant."""
    frame = ASSERTION.search(before[before.rfind("…") :].partition("\n")[0])
    if frame:
        message = f"{frame[1]} failed: {message}"
    if reason := REASON.match(after):
        message = f"{message.rstrip('.')}: {reason[1]}"
    if hint := DID_YOU_MEAN.search(after):
        message += f"; did you mean {hint[1]}?"
    return message


def _clearer(message: str, places: Places) -> str:
    for pattern, sentence in CLEARER:
        if match := pattern.fullmatch(message):
            return sentence.format(what=places.shorten(match["what"]))
    return ""


def _position(before: str, after: str, places: Places) -> str:
    """`flake.nix:21`: where the error is, else the nearest step of the trace to it."""
    found = [*POSITION.finditer(after), *reversed(list(POSITION.finditer(before)))]
    for match in found:
        if places.owns(match[1]):
            return f"{places.shorten(match[1])}:{match[2]}"
    return ""


def without_internals(output: str) -> str:
    """An error of Nix's for the log, without the frames of our own expression.

    An expression that was given on the command line is at «string». Old traces go from
    the error outwards and end there; new ones come from there and end with the error.
    """
    paragraphs = re.split(r"\n[ \t]*\n|(?<=error:)\n(?=[ \t]*…)", output)
    if output.startswith("error:\n"):
        kept = [text for text in paragraphs if OURS not in text or "error:" in text]
        tail = re.compile(rf"\n[ \t]*{OURS}.*", re.DOTALL)
        return "\n\n".join(tail.sub("", text) for text in kept)
    starts = [text.lstrip().startswith(OURS) for text in paragraphs]
    # The text of a frame is the paragraph before its position.
    end = max(1, starts.index(True) - 1) if any(starts) else len(paragraphs)
    return "\n\n".join(paragraphs[:end]).rstrip() + "\n"


def host_fault(output: str, line: str) -> HostFault | None:
    """What of the host's broke, when Nix says so; `line` is the first line of `output`."""
    if OUT_OF_MEMORY.search(output):
        return HostLimit(line)
    for pattern, error in HOST_TROUBLE:
        if pattern.search(line):
            return error(line)
    return None


def fetch_fault(output: str, line: str, name: str) -> BuildServerError:
    """Why the locked input `name` could not be fetched, and whose fault that is."""
    if fault := host_fault(output, line):
        return fault
    detail = DOWNLOAD.search(output)
    reason = detail[0] if detail else line
    if NETWORK_TROUBLE.search(output):
        return NetworkDown(f"the flake input `{name}` cannot be fetched now: {reason}")
    if HASH_MISMATCH.search(line):
        return CommitFault(
            f"flake.lock does not fit what the input `{name}` is today: run "
            f"`nix flake update {name}` and commit flake.lock ({line})"
        )
    return HostFault(f"the locked flake input `{name}` cannot be fetched: {reason}")
