"""A commit with one file changed, written without a checkout.

Nothing of it depends on who writes it, or when: the same change of the same commit is the
same commit again.
"""

from __future__ import annotations

from ci.adapters.git.runner import GitRunner

AUTHOR = "build-server"
PERSON = f"{AUTHOR} <build-server@localhost>"


async def tree_with(
    git: GitRunner, commit: str, path: str, content: bytes | None
) -> str:
    """The id of a commit's tree with another file at `path`, or (None) without one there.

    Its folder must be in the commit, and no link.
    """
    *folders, name = path.split("/")
    entry = b""
    if content is not None:
        entry = f"100644 blob {await _stored(git, 'blob', content)}".encode()
    while True:
        folder = f"{commit}:{'/'.join(folders)}"
        listing = (await git.read("ls-tree", "-z", folder)).stdout.split(b"\0")
        entries = [
            each
            for each in filter(None, listing)
            if each.partition(b"\t")[2] != name.encode()
        ]
        if entry:
            entries.append(entry + b"\t" + name.encode())
        records = b"".join(each + b"\0" for each in entries)
        tree = (await git.write("mktree", "-z", input=records)).stdout.decode().strip()
        if not folders:
            return tree
        entry, name = f"040000 tree {tree}".encode(), folders.pop()


async def commit_on(git: GitRunner, parent: str, tree: str, message: str) -> str:
    """The id of a commit of that tree, as old as its parent is."""
    asked = ("log", "--format=%ct", "--max-count=1", parent, "--")
    moment = (await git.read(*asked)).stdout.decode().strip()
    text = (
        f"tree {tree}\nparent {parent}\nauthor {PERSON} {moment} +0000\n"
        f"committer {PERSON} {moment} +0000\n\n{message}\n"
    )
    return await _stored(git, "commit", text.encode())


async def _stored(git: GitRunner, kind: str, content: bytes) -> str:
    done = await git.write("hash-object", "-t", kind, "-w", "--stdin", input=content)
    return done.stdout.decode().strip()
