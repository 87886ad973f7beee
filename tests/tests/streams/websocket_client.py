"""A websocket that has said something, with or without pings of the client's."""
import asyncio
import sys

import websockets


async def main(url, ping):
    async with websockets.connect(url, ping_interval=float(ping) or None) as socket:
        await socket.send("hello")
        async for message in socket:
            print(message, flush=True)


asyncio.run(main(*sys.argv[1:]))
