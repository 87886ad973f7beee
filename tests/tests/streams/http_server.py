"""Streams over HTTP: events that do not come, heartbeats, long polls, and websockets."""
import asyncio
import sys

from aiohttp import web


async def begun(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    await answer.write(b"data: hello\n\n")
    return answer


async def silent(request):
    await begun(request)
    await asyncio.sleep(1e6)


async def ticking(request):
    answer = await begun(request)
    while True:
        await asyncio.sleep(15)
        await answer.write(b": tick\n\n")


async def poll(request):
    await asyncio.sleep(20)
    return web.Response(text="nothing")


async def socket(request):
    answer = web.WebSocketResponse(heartbeat=float(request.query["heartbeat"]) or None)
    await answer.prepare(request)
    async for message in answer:
        await answer.send_str(message.data)


app = web.Application()
app.add_routes([web.get(f"/{of.__name__}", of) for of in (silent, ticking, poll, socket)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
