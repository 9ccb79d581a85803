"""The program `tailscale` of tests/fakes/tailscale.py; it starts in a few milliseconds.

The rules are those of Tailscale's ipn/serve.go and cmd/tailscale/cli/serve_v2.go (1.103):
Funnel belongs to a host and port, not to a path; a host is the machine's name of the
moment, and what stands under a former one stays; `serve` on a port switches Funnel off
there; where Funnel is not allowed the program prints a link, changes nothing and exits
with 0.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOST = "builder.example-tailnet.ts.net"
STATE = "FAKE_TAILSCALE"
LINK = "https://login.example.com/f/funnel?node=n1"


def run(argv: list[str], name: str) -> None:
    """One command on the state in the file `name`."""
    with open(name) as file:
        state = json.load(file)
    state["calls"].append(argv)
    said = _answer(argv, state)
    with open(name, "w") as file:
        json.dump(state, file)
    if said:
        print(said)


def _answer(argv: list[str], state: dict[str, Any]) -> str:
    verb, *rest = argv
    host = state.get("host", HOST)
    if verb == "status":
        states = state["states"]
        now = states.pop(0) if states[1:] else states[0]
        return json.dumps({"BackendState": now, "Self": {"DNSName": f"{host}."}})
    if verb not in ("serve", "funnel"):
        sys.exit(f"the stand-in has no {verb}")
    if rest == ["status", "--json"]:
        return json.dumps(state.get("config"))
    options = dict(word[2:].partition("=")[::2] for word in rest if word[:2] == "--")
    what = [word for word in rest if word[:2] != "--"]
    config = state.get("config") or {}
    if what == ["off"]:
        _off(config, options, host)
    elif verb == "funnel" and not state["allowed"]:
        return f"Funnel is not enabled on your tailnet.\nTo enable, visit: {LINK}"
    else:
        _on(config, options, what[0], host, funnel=verb == "funnel")
    state["config"] = {name: table for name, table in config.items() if table}
    return ""


def _port(options: dict[str, str]) -> tuple[str, str]:
    """How the port is served, and its number."""
    kind = next(name for name in ("https", "http", "tcp") if name in options)
    return kind, options[kind]


def _on(
    config: dict[str, Any],
    options: dict[str, str],
    target: str,
    host: str,
    *,
    funnel: bool,
) -> None:
    kind, port = _port(options)
    at = f"{host}:{port}"
    if kind == "tcp":
        forward = {"TCPForward": target.removeprefix("tcp://")}
        config.setdefault("TCP", {})[port] = forward
    else:
        config.setdefault("TCP", {})[port] = {kind.upper(): True}
        handlers = config.setdefault("Web", {}).setdefault(at, {"Handlers": {}})
        path = options.get("set-path", "/")
        handlers["Handlers"][path] = {"Proxy": target}
    public = config.setdefault("AllowFunnel", {})
    public.pop(at, None)
    if funnel:
        public[at] = True


def _off(config: dict[str, Any], options: dict[str, str], host: str) -> None:
    _, port = _port(options)
    at = f"{host}:{port}"
    handlers = config.get("Web", {}).get(at, {}).get("Handlers", {})
    if path := options.get("set-path"):
        if path not in handlers:
            sys.exit("error: failed to remove web serve: handler does not exist")
        del handlers[path]
    else:
        handlers.clear()
    if not handlers:
        for table, name in (("TCP", port), ("Web", at), ("AllowFunnel", at)):
            config.get(table, {}).pop(name, None)


if __name__ == "__main__":
    run(sys.argv[1:], os.environ[STATE])
