"""aiomysql: a pool with an idle connection, other traffic, and one query that is never answered."""
import asyncio
import sys

import aiomysql


def pool(address):
    host, port = address.split(":")
    return aiomysql.create_pool(host=host, port=int(port), user="root", db="test", minsize=2)


async def query(of, text):
    async with of.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute(text)
        return await cursor.fetchall()


async def main(mute, healthy):
    async with pool(mute) as mute, pool(healthy) as healthy:

        async def other():
            while True:
                await query(healthy, "select 1")
                await asyncio.sleep(0.3)

        task = asyncio.create_task(other())
        await asyncio.gather(query(mute, "select 1"), query(mute, "select 2"))
        await asyncio.sleep(2)
        await query(mute, "select 'hang'")
        await task


asyncio.run(main(*sys.argv[1:]))
