"""A gRPC server that says what it is told."""
import asyncio
import sys

import grpc


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        async def say(request, _):
            return request

        return grpc.unary_unary_rpc_method_handler(say)


async def main(port):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


asyncio.run(main(sys.argv[1]))
