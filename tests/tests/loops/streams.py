"""asyncio's streams: an idle connection, other traffic, and one request that is never answered."""
import asyncio
import sys

MUTE, HEALTHY = sys.argv[1:]


async def ask(connection, where, path):
    reader, writer = connection
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def connect(where):
    host, port = where.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def traffic():
    connection = await connect(HEALTHY)
    while True:
        await ask(connection, HEALTHY, "/")
        await asyncio.sleep(0.3)


async def main():
    other = asyncio.create_task(traffic())
    one, idle = await connect(MUTE), await connect(MUTE)
    await asyncio.gather(ask(one, MUTE, "/a"), ask(idle, MUTE, "/b"))
    await asyncio.sleep(2)
    await asyncio.gather(other, ask(one, MUTE, "/hang"))


asyncio.run(main())
