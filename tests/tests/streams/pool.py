"""Pools of asyncpg and redis that rest, a channel that is listened to on each, and a query now and then."""
import asyncio
import sys

import asyncpg
import redis.asyncio as redis


async def main(postgresql, queue):
    host, port = postgresql.split(":")
    where = dict(host=host, port=int(port), user="postgres", database="postgres")
    pool = await asyncpg.create_pool(**where, min_size=3, max_inactive_connection_lifetime=0)
    listener = await asyncpg.connect(**where)
    await listener.add_listener("news", lambda *_: None)
    client = redis.from_url(f"redis://{queue}")
    subscription = client.pubsub()
    await subscription.subscribe("news")

    async def subscribed():
        async for message in subscription.listen():
            print(message, flush=True)

    task = asyncio.create_task(subscribed())
    while True:
        await pool.fetch("select 1")
        await client.get("a")
        await asyncio.sleep(7)


asyncio.run(main(*sys.argv[1:]))
