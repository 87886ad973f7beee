"""gRPC: a stream that says one thing and then nothing."""
import asyncio
import sys

import grpc


class Watch(grpc.GenericRpcHandler):
    def service(self, details):
        async def watch(request, _):
            yield request
            await asyncio.sleep(1e6)

        return grpc.unary_stream_rpc_method_handler(watch)


async def main(port):
    server = grpc.aio.server(options=[("grpc.http2.min_ping_interval_without_data_ms", 1000)])
    server.add_generic_rpc_handlers((Watch(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main(sys.argv[1]))
