"""gRPC with asyncio: other traffic, and one call that is never answered, on a channel that was used before."""
import asyncio
import sys

import grpc


def call(address):
    return grpc.aio.insecure_channel(address).unary_unary("/test.Echo/Say")


async def main(mute, healthy):
    mute, healthy = call(mute), call(healthy)

    async def other():
        while True:
            await healthy(b"a")
            await asyncio.sleep(0.3)

    task = asyncio.create_task(other())
    await mute(b"a")
    await asyncio.sleep(2)
    await mute(b"hang")
    await task


asyncio.run(main(*sys.argv[1:]))
