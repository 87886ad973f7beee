"""redis-py with asyncio: a connection that rests, other traffic, and one command that is never answered."""
import asyncio
import sys

import redis.asyncio as redis


async def main(mute, healthy):
    resting, asking, healthy = (redis.from_url(f"redis://{address}") for address in (mute, mute, healthy))

    async def other():
        while True:
            await healthy.get("a")
            await asyncio.sleep(0.3)

    task = asyncio.create_task(other())
    await asyncio.gather(resting.get("a"), asking.get("a"))
    await asyncio.sleep(2)
    await asking.get("hang")
    await task


asyncio.run(main(*sys.argv[1:]))
