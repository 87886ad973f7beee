"""asyncpg: a pool with an idle connection, other traffic, and one query that is never answered."""
import asyncio
import sys

import asyncpg


def pool(address):
    host, port = address.split(":")
    return asyncpg.create_pool(
        host=host, port=int(port), user="postgres", database="postgres", min_size=2, max_inactive_connection_lifetime=0
    )


async def main(mute, healthy):
    async with pool(mute) as mute, pool(healthy) as healthy:

        async def other():
            while True:
                await healthy.fetch("select 1")
                await asyncio.sleep(0.3)

        task = asyncio.create_task(other())
        await asyncio.gather(mute.fetch("select 1"), mute.fetch("select 2"))
        await asyncio.sleep(2)
        await mute.fetch("select 'hang'")
        await task


asyncio.run(main(*sys.argv[1:]))
