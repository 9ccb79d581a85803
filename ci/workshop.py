"""What builds need of this host: mirrors, sandbox, Nix and the builders, made once."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.adapters import nix_daemon, process, sandbox
from ci.adapters.git import Mirror
from ci.adapters.github import GitHub
from ci.adapters.host import disk
from ci.adapters.nix_environment import NixEnvironment, discover
from ci.adapters.nix_eval import Evaluator
from ci.adapters.nix_systems import buildable_systems
from ci.adapters.sandbox import Sandbox
from ci.build.command import CommandBuilder
from ci.build.flake import FlakeBuilder
from ci.build.job import Builder
from ci.build.roots import RootKeeper
from ci.config import Settings
from ci.errors import ConfigurationError, DaemonLost, DiskFull, HostFault
from ci.history import paths

log = logging.getLogger(__name__)

# With less than this a build would break something before it ends.
LEAST_FREE = 256 * 1024**2


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
    env: Mapping[str, str] = field(default_factory=dict)
    _mirrors: dict[str, Mirror] = field(default_factory=dict)

    @classmethod
    async def open(
        cls,
        settings: Settings,
        environ: Mapping[str, str],
        github: GitHub,
        numbers: Mapping[str, int],
        mark: str,
    ) -> Workshop:
        """Find what the configured builders need.

        Raises ConfigurationError when git, Nix or the sandbox is wanted and does not work.
        With `parallel = 0` nothing is built, so nothing is looked for.
        """
        workshop = cls(settings, environ, github, numbers, None, {})
        path = environ.get("PATH", os.defpath)
        if await asyncio.to_thread(shutil.which, "git", path=path) is None:
            raise ConfigurationError(["git is not on PATH; install it"])
        if settings.build.parallel == 0:
            return workshop
        box = await _sandbox(settings)
        env = workshop.env = process.mark({"PATH": path}, mark)
        used = {repository.builder for repository in settings.repositories}
        if "command" in used:
            workshop.builders["command"] = CommandBuilder(
                sandbox=box,
                env=env,
                silent_timeout=settings.build.silent_timeout,
            )
        if "nix" in used:
            nix = await discover(settings.build.nix, environ)
            workshop.nix = nix
            workshop.builders["nix"] = FlakeBuilder(
                nix=nix,
                env=env,
                systems=await buildable_systems(nix, env),
                evaluator=Evaluator(
                    nix,
                    box,
                    memory=settings.build.eval_memory,
                    timeout=settings.build.timeout,
                    env=env,
                ),
                timeout=settings.build.timeout,
                silent_timeout=settings.build.silent_timeout,
                diagnose=workshop.diagnose,
                keep_roots=RootKeeper(settings.state_dir, settings.build.keep),
            )
        return workshop

    def mirror(self, repo: str) -> Mirror:
        """The mirror of a configured repository, made when first asked for."""
        if repo not in self._mirrors:
            found = [r for r in self.settings.repositories if r.name == repo]
            if not found:
                raise HostFault(f"{repo} is not configured on this server")
            repository = found[0]

            async def token() -> str | None:
                return await self.github.git_token(repo)

            self._mirrors[repo] = Mirror(
                paths.mirror_path(self.settings.state_dir, self.numbers[repo]),
                repository.url,
                token=token,
                environ={**self.environ, **self.env},
            )
        return self._mirrors[repo]

    async def diagnose(self) -> HostFault | None:
        """Why the host let a build down, by looking at it; None when it looks well."""
        places = {"the state directory": self.settings.state_dir}
        if self.nix is not None:
            places["the Nix store"] = self.nix.store_dir
        for name, path in places.items():
            free = (await asyncio.to_thread(disk, path)).free
            if free < LEAST_FREE:
                return DiskFull(f"{name} has only {free // 1024**2} MiB left")
        if self.nix is not None:
            try:
                async with nix_daemon.connect(self.nix, env=self.env):
                    pass
            except DaemonLost as error:
                return error
        return None


async def _sandbox(settings: Settings) -> Sandbox:
    if not settings.build.sandbox:
        log.warning("build.sandbox = false: whoever can push can read what we can")
        return Sandbox(bwrap=None)
    works, why = await sandbox.available()
    if not works:
        raise ConfigurationError(
            [f"build.sandbox: {why}; or write `sandbox = false` and trust every pusher"]
        )
    return Sandbox(bwrap=shutil.which("bwrap"))
