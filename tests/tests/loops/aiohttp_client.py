"""aiohttp: a pool with an idle connection, other traffic, and one request that is never answered."""
import asyncio
import sys

import aiohttp

MUTE, HEALTHY = sys.argv[1:]


async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def get(where, path):
            async with session.get(f"http://{where}{path}") as answer:
                await answer.read()

        async def traffic():
            while True:
                await get(HEALTHY, "/")
                await asyncio.sleep(0.3)

        other = asyncio.create_task(traffic())
        await asyncio.gather(get(MUTE, "/a"), get(MUTE, "/b"))
        await asyncio.sleep(2)
        await asyncio.gather(other, get(MUTE, "/hang"))


asyncio.run(main())
