"""Children run, are heard, and end, with all that they started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.adapters.process import Finished, kill_leftovers, mark, run, spawn
from ci.errors import HostFault, HostLimit
from tests.fakes.waiting import PATIENCE, wait_until

ENV = {"PATH": "/usr/bin:/bin"}
ROOT = Path(__file__).parents[2]


def alive(text: str) -> list[int]:
    """Processes that are not zombies and have `text` in their command line."""
    argv = ["pgrep", "--full", "--runstates", "DRST", "--", text]
    listed = subprocess.run(argv, capture_output=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.fixture
def number() -> Iterator[str]:
    """A number of seconds that no other sleep of this host sleeps."""
    text = f"7{os.urandom(4).hex()}".translate(str.maketrans("abcdef", "012345"))
    yield text
    left = alive(text)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


async def sh(script: str, seconds: float = PATIENCE) -> Finished:
    return await run(["sh", "-c", script], env=ENV, timeout=seconds)


async def test_a_program_gets_its_input_and_gives_its_output_and_code() -> None:
    given = os.urandom(3_000_000)
    script = "cat; printf trouble >&2; exit 7"
    done = await run(["sh", "-c", script], env=ENV, timeout=PATIENCE, input=given)
    assert done == Finished(7, given, b"trouble")
    assert (await sh("kill -9 $$")).code == -9


async def test_a_child_inherits_neither_environment_nor_files() -> None:
    os.environ["CANARY"] = "secret"
    canary = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(canary, True)
    try:
        done = await run(
            ["sh", "-c", "env; ls /proc/self/fd"], env=ENV, timeout=PATIENCE
        )
    finally:
        os.close(canary)
        del os.environ["CANARY"]
    lines = done.stdout.decode().splitlines()
    names = {line.partition("=")[0] for line in lines if "=" in line}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "BUILD_SERVER_SPAWN"}
    # The fourth is the directory that `ls` itself reads.
    assert [line for line in lines if line.isdigit()] == ["0", "1", "2", "3"]


async def test_merged_output_comes_in_order_and_unchanged() -> None:
    odd = "printf 'a\\0\\r\\377'; printf b >&2; printf c; head -c 200000 /dev/zero"
    received = []
    async with spawn(["sh", "-c", odd], env=ENV) as process:
        while chunk := await process.read():
            assert len(chunk) <= 65536
            received.append(chunk)
        assert await process.wait() == 0
    assert b"".join(received) == b"a\0\r\xffbc" + bytes(200_000)


async def test_a_chatty_child_leaves_the_loop_to_others() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    chunks = 0
    async with spawn(["sh", "-c", "yes | head -c 100000000"], env=ENV) as process:
        while await process.read():
            chunks += 1
    task.cancel()
    assert chunks < 20_000, "small pieces are gathered"
    assert turns > chunks / 8


async def test_a_read_that_was_given_up_loses_nothing(tmp_path: Path) -> None:
    script = (
        "for i in 1 2 3; do until [ -e $i ]; do sleep 0.01; done; printf $i; done;"
        "until [ -e 4 ]; do sleep 0.01; done"
    )
    received, given_up = b"", 0
    async with spawn(["sh", "-c", script], env=ENV, cwd=tmp_path) as process:
        while True:
            try:
                async with asyncio.timeout(0.01):
                    chunk = await process.read()
            except TimeoutError:
                given_up += 1
                # It says the next word only after a read that was given up.
                if given_up % 2 == 0:
                    (tmp_path / str(given_up // 2)).touch()
                continue
            if not chunk:
                break
            received += chunk
    assert received == b"123"
    assert given_up >= 8


@pytest.mark.parametrize("leave", ["{ sleep NUM & }", "setsid sleep NUM &"])
async def test_a_daemon_that_holds_the_output_holds_nobody_up(
    leave: str, number: str
) -> None:
    script = leave.replace("NUM", number) + "\necho done"
    # It would sleep for longer than anybody waits here.
    assert await sh(script) == Finished(0, b"done\n", b"")
    assert alive(number) == []


async def test_what_a_helper_writes_just_after_the_end_is_kept(tmp_path: Path) -> None:
    """It reads to the end of a pipe that ends with the program."""
    script = (
        "mkfifo end; { read -r _ <end; echo late; } & exec 3>end; echo early; exit 0"
    )
    done = await run(["sh", "-c", script], env=ENV, cwd=tmp_path, timeout=PATIENCE)
    assert done.stdout == b"early\nlate\n"


DAEMON = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        os.execvp("sleep", ["sleep", sys.argv[1]])
    os._exit(0)
print("ready", flush=True)
time.sleep(600)
"""


async def test_stop_ends_what_ignores_it_and_what_ran_away(number: str) -> None:
    argv = [sys.executable, "-c", DAEMON, number]
    async with spawn(argv, env=ENV, grace=0.1) as process:
        assert await process.read() == b"ready\n"
        await wait_until(lambda: len(alive(number)) >= 2, what="the daemon")
        assert await process.stop(0.1) == -signal.SIGKILL
    assert alive(number) == []


async def test_term_gives_time_to_clean_up() -> None:
    script = (
        "trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    )
    async with spawn(["sh", "-c", script], env=ENV) as process:
        assert await process.read() == b"ready\n"
        assert await process.stop(10) == 3
        said = b""
        while chunk := await process.read():
            said += chunk
        assert said.endswith(b"cleaned\n")


async def test_cancellation_stops_the_child_and_a_second_one_does_not_wait(
    number: str,
) -> None:
    ready = asyncio.Event()

    async def work() -> None:
        script = f"trap '' TERM; echo ready; sleep {number}; sleep {number}"
        async with spawn(["sh", "-c", script], env=ENV, grace=600) as process:
            await process.read()
            ready.set()
            await process.wait()

    task = asyncio.create_task(work())
    await ready.wait()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(number) == []


async def test_too_long_and_too_much_are_told_apart(number: str) -> None:
    with pytest.raises(TimeoutError, match=r"`sh` was stopped: .* longer than 0.2 s"):
        await sh(f"sleep {number}", seconds=0.2)
    with pytest.raises(HostLimit, match="more than 100000 bytes"):
        await run(["yes"], env=ENV, timeout=PATIENCE, limit=100_000)


async def test_only_the_end_of_endless_errors_is_kept() -> None:
    heard = 0

    def say(chunk: bytes) -> None:
        nonlocal heard
        heard += len(chunk)

    script = "yes | head -c 10000000 >&2; printf end >&2"
    done = await run(["sh", "-c", script], env=ENV, timeout=PATIENCE, say=say)
    assert heard == 10_000_003
    assert len(done.stderr) == 1024 * 1024
    assert done.stderr.endswith(b"y\nend")


async def test_an_event_stops_a_program(number: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, stop.set)
    done = await run(["sleep", number], env=ENV, timeout=PATIENCE, stop=stop)
    assert done.code == -signal.SIGTERM


@pytest.mark.parametrize("program", ["no-such-program", "/etc/passwd", "./nothing"])
async def test_a_program_that_is_not_there_is_named(
    program: str, tmp_path: Path
) -> None:
    with pytest.raises(HostFault, match=f"`{program}` was not found: install it"):
        await run([program], env=ENV, cwd=tmp_path, timeout=PATIENCE)


async def test_no_files_left_is_a_limit_of_the_host() -> None:
    script = (
        "import asyncio, resource\n"
        "from ci.adapters.process import run\n"
        "from ci.errors import HostLimit\n"
        "async def main():\n"
        "    await run(['true'], env={'PATH': '/usr/bin'}, timeout=50)\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (14, 14))\n"
        "    taken = []\n"
        "    for _ in range(20):\n"
        "        try:\n"
        "            await run(['true'], env={'PATH': '/usr/bin'}, timeout=50)\n"
        "            taken.append(open('/dev/null'))\n"
        "        except HostLimit as error:\n"
        "            print(error)\n"
        "            return\n"
        "asyncio.run(main())\n"
    )
    argv = [sys.executable, "-W", "error", "-c", script]
    done = await run(argv, env=ENV, cwd=ROOT, timeout=PATIENCE)
    assert b"Too many open files" in done.stdout, done.stderr.decode()


async def test_no_descriptors_and_no_children_stay_behind() -> None:
    before = os.listdir("/proc/self/fd"), children()
    for _ in range(5):
        await sh("exit 1")
        with pytest.raises(TimeoutError):
            await sh("sleep 60", seconds=0.01)
    assert (os.listdir("/proc/self/fd"), children()) == before


SERVER = """
import asyncio, sys
from ci.adapters.process import mark, spawn
async def main():
    script = f"setsid sleep {sys.argv[2]} & echo $$; sleep {sys.argv[2]}"
    env = mark({"PATH": "/usr/bin:/bin"}, sys.argv[1])
    async with spawn(["sh", "-c", script], env=env) as process:
        print((await process.read()).decode(), end="", flush=True)
        await process.wait()
asyncio.run(main())
"""


@contextmanager
def dying_server(instance: str, number: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", SERVER, instance, number]
    with subprocess.Popen(argv, env=ENV, cwd=ROOT, stdout=subprocess.PIPE) as server:
        try:
            yield server
        finally:
            server.kill()


async def test_what_a_killed_server_left_is_found_and_ended(number: str) -> None:
    instance = f"test-{number}"
    with dying_server(instance, number) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        # Both have left the shell that they were forked from, and one its group.
        await wait_until(
            lambda: len(alive(f"^sleep {number}")) == 2, what="the whole tree"
        )
        assert len(alive(number)) == 4
        assert await kill_leftovers(instance) == 0, "our own tree is spared"
    await wait_until(
        lambda: not Path(f"/proc/{child}/cwd").exists(), what="death with its parent"
    )
    assert len(alive(number)) == 2, "its children, in two groups"
    assert await kill_leftovers("another") == 0
    assert await kill_leftovers(instance) == 2
    assert alive(number) == []


def test_a_mark_adds_one_variable() -> None:
    assert mark({"A": "b"}, "x") == {"A": "b", "BUILD_SERVER_INSTANCE": "x"}
