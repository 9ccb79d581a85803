"""Running a client as a program, in a pipe or on a terminal of any width."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyte

# Of what hangs; a client takes a tenth of a second for what it is run for here.
DEADLINE = 60.0
AT_ONCE = 3
LINES = 24
FRAME_BEGINS, FRAME_ENDS = b"\x1b[?2026h", b"\x1b[?2026l"


@dataclass(frozen=True)
class Ran:
    """How a client ended; on a terminal both of its sides are in `out`."""

    code: int
    out: str
    err: str = ""


class Terminal:
    """What a running client has shown on its terminal so far.

    `screen` is what its reader sees of that, `scrolled` with what has left it on top.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, master: int, columns: int
    ) -> None:
        self.process = process
        self._master = master
        self._shown = b""
        self.screen = pyte.HistoryScreen(columns, LINES, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self._more = asyncio.Event()
        self._over = False
        asyncio.get_running_loop().add_reader(master, self._read)

    async def shows(self, text: str) -> None:
        """Return when `text` has been shown."""
        async with asyncio.timeout(DEADLINE):
            while text.encode() not in self._shown:
                assert not self._over, self._shown
                self._more.clear()
                await self._more.wait()

    async def sees(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """The lines on the screen, when they are so; what is being drawn is awaited."""
        async with asyncio.timeout(DEADLINE):
            while self._draws or not condition(self.lines):
                assert not self._over, self._shown
                self._more.clear()
                await self._more.wait()
        return self.lines

    @property
    def _draws(self) -> bool:
        """Whether a frame has come in part."""
        return self._shown.rfind(FRAME_BEGINS) > self._shown.rfind(FRAME_ENDS)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without the empty lines below it."""
        shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def shown(self) -> bytes:
        return self._shown

    @property
    def scrolled(self) -> list[str]:
        gone = [
            "".join(row[x].data for x in range(self.screen.columns)).rstrip()
            for row in self.screen.history.top
        ]
        return [*gone, *self.lines]

    def resize(self, columns: int, lines: int = LINES) -> None:
        """As when a window is made larger or smaller."""
        self.screen.resize(lines, columns)
        _set_size(self._master, columns, lines)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def end(self) -> Ran:
        async with asyncio.timeout(DEADLINE):
            while not self._over:
                self._more.clear()
                await self._more.wait()
            code = await self.process.wait()
        return Ran(code, self._shown.decode().replace("\r\n", "\n"))

    def _read(self) -> None:
        try:
            part = os.read(self._master, 65536)
        except OSError:
            # Linux says EIO where others say end of file.
            part = b""
        self._shown += part
        self._stream.feed(part)
        self._more.set()
        if not part:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)


@dataclass
class Programs:
    """The clients, installed as links to one file, and the environment they run in."""

    directory: Path
    environ: dict[str, str]

    def be_patient(self, command: str) -> None:
        """Let this command wait as long as it takes for what it gives up on soon."""
        program = self.directory / "program"
        begin, found, rest = program.read_text().partition("import sys\n")
        assert found
        module = f"ci.client.commands.{command}"
        patient = f"import {module}\n{module}.PATIENCE = {DEADLINE}\n"
        program.write_text(begin + found + patient + rest)

    async def run(self, *argv: str, cwd: Path | None = None, **environ: str) -> Ran:
        """Both sides are pipes."""
        process = await self.start(*argv, cwd=cwd, **environ)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())

    async def run_all(self, commands: Iterable[Sequence[str]]) -> list[Ran]:
        """Each of them, a few at a time; in the order of the commands."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(argv: Sequence[str]) -> Ran:
            async with turns:
                return await self.run(*argv)

        return await asyncio.gather(*map(one, commands))

    async def start(
        self, *argv: str, cwd: Path | None = None, **environ: str
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            self.directory / argv[0],
            *argv[1:],
            cwd=cwd or self.directory,
            env={**self.environ, **environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def on_terminal(self, *argv: str, columns: int = 80, **environ: str) -> Ran:
        """Both sides are one terminal of that width."""
        terminal = await self.open_terminal(*argv, columns=columns, **environ)
        return await terminal.end()

    async def open_terminal(
        self, *argv: str, columns: int = 80, **environ: str
    ) -> Terminal:
        master, slave = os.openpty()
        _set_size(slave, columns, LINES)
        _keep_output(slave)
        try:
            process = await asyncio.create_subprocess_exec(
                self.directory / argv[0],
                *argv[1:],
                cwd=self.directory,
                env={**self.environ, **environ},
                stdin=slave,
                stdout=slave,
                stderr=slave,
                # So that Ctrl-C and a new size come as signals.
                start_new_session=True,
                preexec_fn=partial(fcntl.ioctl, slave, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(slave)
        return Terminal(process, master, columns)


def _keep_output(descriptor: int) -> None:
    """Have Ctrl-C throw nothing away that is on its way to the screen.

    Linux does so after it has sent the signal, and so with what that made a program say.
    """
    modes = termios.tcgetattr(descriptor)
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(descriptor, termios.TCSANOW, modes)


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    size = struct.pack("4H", lines, columns, 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)


async def next_line(process: asyncio.subprocess.Process) -> str:
    """The next line of stdout."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        return (await process.stdout.readline()).decode()


async def next_hint(process: asyncio.subprocess.Process) -> str:
    """The next line of stderr."""
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE):
        return (await process.stderr.readline()).decode()


async def hint_with(process: asyncio.subprocess.Process, text: str) -> str:
    """The next line of stderr in which this stands; others may come before it."""
    while text not in (hint := await next_hint(process)):
        assert hint, f"it ended without {text!r}"
    return hint


async def end_of(process: asyncio.subprocess.Process) -> Ran:
    """What it says from now on, and its code."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())
