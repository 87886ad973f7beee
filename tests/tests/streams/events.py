"""aiohttp reads a stream of events."""
import asyncio
import sys

import aiohttp


async def main(url):
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        async for line in answer.content:
            print(line, flush=True)


asyncio.run(main(sys.argv[1]))
