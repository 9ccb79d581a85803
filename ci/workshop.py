"""What builds need of this host: mirrors, sandbox, Nix and the builders, made once."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ci.adapters import nix_daemon, process, sandbox
from ci.adapters.cells import Cells, Limits
from ci.adapters.git import Mirror
from ci.adapters.github import GitHub, refs
from ci.adapters.nix_environment import NixEnvironment, discover
from ci.adapters.nix_eval import Evaluator
from ci.adapters.nix_systems import buildable_systems
from ci.adapters.sandbox import Sandbox
from ci.adapters.strain import VMSTAT, Strain
from ci.build.command import CommandBuilder
from ci.build.flake import FlakeBuilder
from ci.build.holder import Holder
from ci.build.job import Builder
from ci.build.roots import Needed, RootKeeper, newest_numbers
from ci.build.update import Updates
from ci.config import Settings
from ci.errors import ConfigurationError, DiskFull, HostFault
from ci.history import paths
from ci.history.database import Database
from ci.upkeep import folders
from ci.upkeep.room import Room
from ci.upkeep.watch import places
from ci.wake import Wake

log = logging.getLogger(__name__)


@dataclass
class Workshop:
    """The tools of the scheduler.

    `numbers` are the ids of the configured repositories, `builders` the configuration's
    `builder` names.
    """

    settings: Settings
    environ: Mapping[str, str]
    github: GitHub
    numbers: Mapping[str, int]
    nix: NixEnvironment | None
    builders: dict[str, Builder]
    room: Room
    env: Mapping[str, str] = field(default_factory=dict)
    cells: Cells = field(default_factory=Cells)
    holder: Holder | None = None
    evaluator: Evaluator | None = None
    _mirrors: dict[str, Mirror] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        settings: Settings,
        environ: Mapping[str, str],
        github: GitHub,
        numbers: Mapping[str, int],
        mark: str,
        needed: Needed = newest_numbers,
    ) -> Workshop:
        """Find what the configured builders need.

        Raises ConfigurationError when git, Nix or the sandbox is wanted and does not work.
        With `parallel = 0` nothing is built, so nothing is looked for.
        """
        room = Room(places(settings))
        workshop = cls(settings, environ, github, numbers, None, {}, room)
        path = environ.get("PATH", os.defpath)
        if await asyncio.to_thread(shutil.which, "git", path=path) is None:
            raise ConfigurationError(["git is not on PATH; install it"])
        if settings.build.parallel == 0:
            return workshop
        box = await _sandbox(settings, path)
        cells = workshop.cells = await asyncio.to_thread(Cells.open, mark)
        log.info("limits: %s", cells.described)
        await asyncio.to_thread(folders.set_leftovers_aside, settings.state_dir)
        env = workshop.env = process.mark({"PATH": path}, mark)
        used = {repository.builder for repository in settings.repositories}
        if "command" in used:
            workshop.builders["command"] = _commands(settings, box, env, cells)
        if "nix" in used:
            nix = await discover(settings.build.nix, environ)
            workshop.nix = nix
            workshop.room = Room(places(settings, nix.store_dir))
            workshop.holder = Holder(nix, env)
            workshop.evaluator = Evaluator(
                nix,
                box,
                memory=settings.build.eval_memory,
                timeout=settings.build.timeout,
                env=env,
                processes=settings.build.processes,
                cells=cells,
            )
            workshop.builders["nix"] = FlakeBuilder(
                nix=nix,
                env=env,
                systems=await buildable_systems(nix, env),
                evaluator=workshop.evaluator,
                timeout=settings.build.timeout,
                silent_timeout=settings.build.silent_timeout,
                diagnose=workshop.diagnose,
                keep_roots=RootKeeper(settings.state_dir, settings.build.keep, needed),
                holder=workshop.holder,
            )
        return workshop

    async def close(self) -> None:
        """Let go of the results that are still held; nothing builds any more."""
        if self.holder is not None:
            await self.holder.close()

    def updates(self, database: Database, wake: Wake) -> Updates:
        """What asks for fresh inputs, where any repository wants that."""
        return Updates(
            self.settings,
            database,
            self.numbers,
            self.mirror,
            self.evaluator,
            wake,
            self.room.reason,
        )

    def mirror(self, repo: str) -> Mirror:
        """The mirror of a configured repository, made when first asked for."""
        if repo not in self._mirrors:
            found = [r for r in self.settings.repositories if r.name == repo]
            if not found:
                raise HostFault(f"{repo} is not configured on this server")
            repository = found[0]

            # GitHub's token is for GitHub: another host that is cloned from gets none.
            is_github = refs.is_on(self.settings.github.api_url, repository.url)

            async def token() -> str | None:
                return await self.github.git_token(repo) if is_github else None

            self._mirrors[repo] = Mirror(
                paths.mirror_path(self.settings.state_dir, self.numbers[repo]),
                repository.url,
                token=token,
                environ={**self.environ, **self.env},
            )
        return self._mirrors[repo]

    def _places(self) -> dict[str, Path]:
        """Where builds need room, as people call it."""
        places = {"the state directory": self.settings.state_dir}
        if self.nix is not None:
            places["the Nix store"] = self.nix.store_dir
        return places

    def strain(self, builder: str) -> Strain:
        """What watches this host while something is built by the named builder.

        Commands run under limits of their own: who is killed there says so by itself.
        """
        vmstat = VMSTAT if builder == "nix" else None
        return Strain(self._places(), vmstat, within_limits=self.cells.kills)

    async def shortage(self) -> DiskFull | None:
        """Which disk is too full to build, by looking at it; None when none is."""
        await self.room.look()
        reason = self.room.reason()
        return DiskFull(reason) if reason else None

    async def diagnose(self) -> HostFault | None:
        """Why the host let a build down, by looking at it; None when it looks well."""
        if fault := await self.shortage():
            return fault
        if self.nix is not None:
            try:
                async with nix_daemon.connect(self.nix, env=self.env):
                    pass
            except HostFault as error:
                return error
        return None


def _commands(
    settings: Settings, box: Sandbox, env: Mapping[str, str], cells: Cells
) -> CommandBuilder:
    limits = Limits(
        settings.build.command_memory, settings.build.processes, "build.command_memory"
    )
    silent = settings.build.silent_timeout
    return CommandBuilder(box, env, silent, limits, cells)


async def _sandbox(settings: Settings, path: str) -> Sandbox:
    if not settings.build.sandbox:
        log.warning("build.sandbox = false: whoever can push can read what we can")
        return Sandbox(bwrap=None)
    found, why = await sandbox.find(path)
    if found is None:
        raise ConfigurationError(
            [f"build.sandbox: {why}; or write `sandbox = false` and trust every pusher"]
        )
    return found
