"""Reads such a stream, with or without pings."""
import asyncio
import sys

import grpc


async def main(address, ping_ms):
    options = [("grpc.keepalive_time_ms", int(ping_ms)), ("grpc.http2.max_pings_without_data", 0)]
    channel = grpc.aio.insecure_channel(address, options=options if int(ping_ms) else [])
    async for message in channel.unary_stream("/test.Watch/Watch")(b"a"):
        print(message, flush=True)


asyncio.run(main(*sys.argv[1:]))
