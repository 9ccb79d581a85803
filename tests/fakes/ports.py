"""Ports that stay ours while nobody listens on them."""

from __future__ import annotations

import socket


def keep_port() -> socket.socket:
    """Take a free port of 127.0.0.1 until the socket is closed; `port_of` tells it.

    Connections to it are refused, and the kernel gives it to nobody else. Whoever is told
    its number may listen there with SO_REUSEADDR, which servers set, as often as he likes:
    Linux lets sockets share a port of which at most one listens.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept


def port_of(kept: socket.socket) -> int:
    return int(kept.getsockname()[1])
