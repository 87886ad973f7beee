"""Long polls, one after the other."""
import asyncio
import sys

import aiohttp


async def main(url):
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(url) as answer:
                await answer.read()


asyncio.run(main(sys.argv[1]))
