"""Real git repositories to fetch from: what GitHub would hold, on this disk.

Commits are written with `git fast-import` (one process each, about 5 ms), so that any
file, mode and branch name that git can store can be made, hostile ones too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

# 2026-11-20T00:00:00Z; each commit is one second younger than the one before.
FIRST_COMMIT_AT = 1_795_132_800

Files = Mapping[str, str | bytes | None]


class Origin:
    """A bare repository at `path`, made when absent, empty until the first commit.

    Methods block (subprocesses); the result of every commit is its full SHA. The same
    calls in the same order give the same SHAs.
    """

    def __init__(self, path: Path, branch: str = "dev") -> None:
        self.path = path
        self.default_branch = branch
        self._commits = 0
        if not (path / "HEAD").exists():
            path.mkdir(parents=True, exist_ok=True)
            self.git("init", "--quiet", "--bare", f"--initial-branch={branch}")

    @property
    def url(self) -> str:
        return f"file://{quote(str(self.path))}"

    def commit(
        self,
        files: Files | None = None,
        message: str = "A change",
        *,
        branch: str | None = None,
        author: str = "Ada Lovelace",
        executable: Collection[str] = (),
        links: Mapping[str, str] | None = None,
    ) -> str:
        """Add one commit to the head of `branch` (the default one when None).

        `files` maps paths to their new content (None deletes one); the others stay.
        Paths in `executable` get mode 755; `links` maps symlinks to their targets.
        """
        name = branch or self.default_branch
        changes = _changes(files or {}, executable, links or {})
        return self._import(
            _ref(name), self.find(name), message, changes, author=author
        )

    def commits(self, count: int, *, branch: str | None = None) -> list[str]:
        """Add `count` empty commits at once, oldest first; titles are `Commit 1`, ….

        One process for all: for pushes of thousands.
        """
        name = branch or self.default_branch
        parent = self.find(name)
        parts: list[bytes] = []
        for number in range(1, count + 1):
            header = self._header(_ref(name), f"Commit {number}", "Ada Lovelace")
            parts += [header, _from(parent), b"get-mark :1\n"]
            parent = ":1"
        return self._fast_import(b"".join(parts)).split()

    def branch(self, name: str, at: str | None = None) -> str:
        """Create `name`, or move it, to the commit `at` (the default branch's head)."""
        sha = at or self.head()
        self.git("update-ref", _ref(name), sha)
        return sha

    def force(
        self,
        onto: str,
        files: Files | None = None,
        message: str = "A rewritten change",
        *,
        branch: str | None = None,
    ) -> str:
        """Rewrite history: reset the branch to the commit `onto`, then commit there."""
        name = branch or self.default_branch
        self.branch(name, onto)
        return self.commit(files, message, branch=name)

    def merge(
        self, other: str, message: str | None = None, *, branch: str | None = None
    ) -> str:
        """Merge the branch `other` into `branch`; its files win where both have one."""
        name = branch or self.default_branch
        theirs = self.head(other)
        listing = self.git("ls-tree", "-r", "-z", theirs)
        changes = b"".join(
            b"M %s %s %s\n" % (mode, sha, _quoted(path))
            for mode, _, sha, path in _entries(listing)
        )
        text = message or f"Merge branch '{other}' into {name}"
        parent = self.head(name)
        return self._import(_ref(name), parent, text, changes, merged=theirs)

    def delete(self, name: str) -> None:
        """Delete a branch; its commits stay until `vanish`."""
        self.git("update-ref", "-d", _ref(name))

    def vanish(self) -> None:
        """Throw away the commits that no branch holds, as GitHub does after a while."""
        self.git("reflog", "expire", "--expire=now", "--all")
        self.git("gc", "--quiet", "--prune=now")

    def head(self, branch: str | None = None) -> str:
        """The SHA of the head of a branch, which must exist."""
        sha = self.find(branch or self.default_branch)
        assert sha is not None, f"{self.path} has no branch {branch}"
        return sha

    def find(self, branch: str) -> str | None:
        """The SHA of the head of a branch, or None."""
        argv = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options"]
        done = self._run([*argv, _ref(branch)], b"", check=False)
        return done.decode().strip() or None

    def git(self, *args: str) -> bytes:
        """Run `git ARGS…` in the repository and return its standard output."""
        return self._run(["git", *args], b"")

    def _import(
        self,
        ref: str,
        parent: str | None,
        message: str,
        changes: bytes,
        *,
        author: str = "Ada Lovelace",
        merged: str | None = None,
    ) -> str:
        header = self._header(ref, message, author)
        second = f"merge {merged}\n".encode() if merged else b""
        stream = header + _from(parent) + second + changes + b"\nget-mark :1\n"
        return self._fast_import(stream).strip()

    def _header(self, ref: str, message: str, author: str) -> bytes:
        self._commits += 1
        moment = FIRST_COMMIT_AT + self._commits
        person = f"{author} <{author.split()[0].lower()}@example.org> {moment} +0000"
        head = f"commit {ref}\nmark :1\nauthor {person}\ncommitter {person}\n"
        return os.fsencode(head) + _data(os.fsencode(message))

    def _fast_import(self, stream: bytes) -> str:
        argv = ["git", "fast-import", "--quiet", "--force", "--date-format=raw"]
        return self._run(argv, stream + b"done\n").decode()

    def _run(self, argv: list[str], stdin: bytes, *, check: bool = True) -> bytes:
        done = subprocess.run(
            argv,
            cwd=self.path,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": os.devnull,
                "LC_ALL": "C",
            },
            input=stdin,
            capture_output=True,
        )
        assert done.returncode == 0 or not check, done.stderr.decode(errors="replace")
        return done.stdout


def _ref(branch: str) -> str:
    return f"refs/heads/{branch}"


def _from(parent: str | None) -> bytes:
    return f"from {parent}\n".encode() if parent else b""


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)


def _quoted(path: bytes) -> bytes:
    return b'"%s"' % b"".join(b"\\%03o" % byte for byte in path)


def _changes(
    files: Files, executable: Collection[str], links: Mapping[str, str]
) -> bytes:
    parts: list[bytes] = []
    for name, content in files.items():
        path = _quoted(os.fsencode(name))
        if content is None:
            parts.append(b"D %s\n" % path)
            continue
        mode = b"100755" if name in executable else b"100644"
        body = os.fsencode(content) if isinstance(content, str) else content
        parts.append(b"M %s inline %s\n%s" % (mode, path, _data(body)))
    for name, target in links.items():
        body = _data(os.fsencode(target))
        parts.append(b"M 120000 inline %s\n%s" % (_quoted(os.fsencode(name)), body))
    return b"".join(parts)


def _entries(listing: bytes) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Mode, kind, object and path of each entry of `git ls-tree -r -z`."""
    entries = []
    for line in filter(None, listing.split(b"\0")):
        meta, _, path = line.partition(b"\t")
        mode, kind, sha = meta.split()
        entries.append((mode, kind, sha, path))
    return entries
