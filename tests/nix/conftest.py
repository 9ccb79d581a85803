"""Fixtures to evaluate `nix/` with: with the newest Nix here, or with each in turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.fakes.nix_stores import NixMissing, NixProgram, find_nix
from tests.nix.evaluation import Checkouts, Evaluation, prepared


class EvaluateHome(Protocol):
    """How `eval_home` is called; see Evaluation.home."""

    def __call__(self, *modules: str | Path, ask: str | Mapping[str, str]) -> Any: ...


class EvaluateNixos(Protocol):
    """How `eval_nixos` is called; see Evaluation.nixos."""

    def __call__(
        self,
        *modules: str | Path,
        ask: str | Mapping[str, str],
        wsl: bool = False,
        old_harmonia: bool = False,
    ) -> Any: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "newest_nix" in getattr(item, "fixturenames", ()):
            item.add_marker("nix")


@pytest.fixture(scope="session")
def newest_nix() -> NixProgram:
    """Today's Nix, or the system's where it is absent."""
    try:
        return find_nix("modern")
    except NixMissing:
        pass
    try:
        return find_nix("installed")
    except NixMissing as error:
        pytest.skip(f"Nix: {error}")


@pytest.fixture(scope="session")
def evaluation(
    newest_nix: NixProgram, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    """For the full set of questions: one Nix, the newest."""
    checkouts = Checkouts.of(os.environ)
    return prepared(newest_nix, checkouts, tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="session")
def each_evaluation(
    nix_version: NixProgram, tmp_path_factory: pytest.TempPathFactory
) -> Evaluation:
    """The same with every Nix in turn: for a few questions that touch everything."""
    checkouts = Checkouts.of(os.environ)
    return prepared(nix_version, checkouts, tmp_path_factory.mktemp("evaluation"))


@pytest.fixture
def eval_home(evaluation: Evaluation) -> EvaluateHome:
    """`eval_home(Path("nix/modules/home/x.nix"), "{ … }", ask="config.home.…")`."""
    return evaluation.home


@pytest.fixture
def eval_nixos(evaluation: Evaluation) -> EvaluateNixos:
    """`eval_nixos(Path("nix/modules/nixos/x.nix"), "{ … }", ask={"a": "config.…"})`."""
    return evaluation.nixos
