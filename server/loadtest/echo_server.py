"""A plain echo on aiortc as it is shipped: what calls cost without us. ``python echo_server.py [--port 8090]``.

No adapter of ours, no event loop but asyncio's, and the track that comes is the track that goes back, without
a relay. It takes the same offers as our server, as far as the load test needs that.
"""

import argparse
import asyncio
import signal
import sys
import uuid
from typing import Final

from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

CONNECTIONS: Final = web.AppKey("connections", set[RTCPeerConnection])


async def offer(request: web.Request) -> web.Response:
    """``{sdp, type}`` → 201 ``{sdp, type, id}``."""
    body = await request.json()
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connections = request.app[CONNECTIONS]
    connections.add(connection)

    async def forget() -> None:
        if connection.connectionState in ("failed", "closed"):
            connections.discard(connection)
            await connection.close()

    connection.on("track", connection.addTrack)
    connection.on("connectionstatechange", forget)
    await connection.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
    await connection.setLocalDescription(await connection.createAnswer())
    local = connection.localDescription
    return web.json_response({"sdp": local.sdp, "type": local.type, "id": uuid.uuid4().hex}, status=201)


async def serve(port: int) -> None:
    app = web.Application()
    app[CONNECTIONS] = set()
    app.router.add_post("/offer", offer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        host, taken = runner.addresses[0][:2]
        print(f"echo serves on http://{host}:{taken}", file=sys.stderr, flush=True)
        await ended.wait()
        connections = app[CONNECTIONS]
        await asyncio.gather(*(connection.close() for connection in list(connections)))
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8090, help="0 takes any that is free (default: 8090)")
    asyncio.run(serve(parser.parse_args().port))
