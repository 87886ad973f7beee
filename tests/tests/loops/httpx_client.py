"""httpx: a pool with an idle connection, other traffic, and one request that is never answered."""
import asyncio
import sys

import httpx

MUTE, HEALTHY = sys.argv[1:]


async def main():
    async with httpx.AsyncClient(timeout=None) as client:

        async def traffic():
            while True:
                await client.get(f"http://{HEALTHY}/")
                await asyncio.sleep(0.3)

        other = asyncio.create_task(traffic())
        await asyncio.gather(client.get(f"http://{MUTE}/a"), client.get(f"http://{MUTE}/b"))
        await asyncio.sleep(2)
        await asyncio.gather(other, client.get(f"http://{MUTE}/hang"))


asyncio.run(main())
