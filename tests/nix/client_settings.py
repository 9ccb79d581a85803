"""What nix/modules/nixos/build-client.nix adds to the nix.conf of a machine.

Evaluated where NIXPKGS_LIB names a checkout, and then compared with the golden copy that
serves where it does not.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.nix_stores import NixProgram
from tests.fakes.tree import CHECKOUT
from tests.nix.evaluation import Checkouts, Evaluation, prepared

MODULE = Path("nix/modules/nixos/build-client.nix")
GOLDEN = CHECKOUT / "tests/nix/golden/build-client.json"
# What the golden copy says of the cache.
URL = "http://build-server:5000"
KEY = "build-server-1:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBE="


def client_settings(
    nix: NixProgram, *, url: str, key: str, then: str | None = None
) -> dict[str, Any]:
    """`nix.settings` for this cache and key; `then` is an `extraCaches`, with that key."""
    wanted = golden(url, key, then)
    if os.environ.get("NIXPKGS_LIB"):
        with tempfile.TemporaryDirectory() as work:
            evaluation = prepared(nix, Checkouts.of(os.environ), Path(work))
            assert evaluated(evaluation, url, key, then) == wanted
    return wanted


def golden(url: str = URL, key: str = KEY, then: str | None = None) -> dict[str, Any]:
    """The golden copy, with the address and the key in their places."""
    text = GOLDEN.read_text().replace(URL, url).replace(KEY, key)
    settings: dict[str, Any] = json.loads(text)
    settings["substituters"] += [] if then is None else [then]
    return settings


def evaluated(
    evaluation: Evaluation, url: str = URL, key: str = KEY, then: str | None = None
) -> dict[str, Any]:
    """What is in `nix.settings` for the module's sake."""
    extra = "" if then is None else f'{{ url = "{then}"; publicKey = "{key}"; }}'
    module = (
        f'{{ programs.build-client = {{ enable = true; cacheUrl = "{url}"; '
        f'publicKey = "{key}"; extraCaches = [ {extra} ]; }}; }}'
    )
    before, after = (
        evaluation.nixos(MODULE, *modules, ask="config.nix.settings")
        for modules in ((), (module,))
    )
    return {name: value for name, value in after.items() if value != before.get(name)}
