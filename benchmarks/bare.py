"""The floor of the server: aiohttp that reads a body and answers 202.

python -m benchmarks.bare PORT
"""

from __future__ import annotations

import sys

from aiohttp import web


async def accept(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=202)


def main() -> None:
    application = web.Application()
    application.router.add_post("/webhook", accept)
    port = int(sys.argv[1])
    web.run_app(application, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main()
