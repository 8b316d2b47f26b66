"""A gRPC server on 127.0.0.1:7002, or a WebSocket server on 127.0.0.1:7003: `servers.py grpc|websocket`."""

import asyncio
import sys
from concurrent import futures

import grpc
import websockets


def bytes_of(kind, behavior):
    """A method whose messages are bytes."""
    return getattr(grpc, f"{kind}_rpc_method_handler")(behavior)


def refuse(_request, context):
    context.set_trailing_metadata((("x-why", "asked to"),))
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "refused, as you asked: \u00fc")


# What grpc.health.v1 says of the service named "shop", as bytes: a message whose field 1 is 1 (SERVING) or 2.
health = {"shop": 1}


def check(request, context):
    name = request[2:].decode()
    if name not in health:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, health[name]])


def set_health(request, _context):
    health["shop"] = int(request)
    return b""


def serve_grpc():
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 16 << 20)])
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("Echo", {
            "Unary": bytes_of("unary_unary", lambda request, _: request),
            "Count": bytes_of("unary_stream", lambda request, _: (b"%d" % i for i in range(int(request)))),
            "Sum": bytes_of("stream_unary", lambda requests, _: b"%d" % sum(int(r) for r in requests)),
            "Chat": bytes_of("stream_stream", lambda requests, _: (request.upper() for request in requests)),
            "Refuse": bytes_of("unary_unary", refuse),
            "SetHealth": bytes_of("unary_unary", set_health),
        }),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": bytes_of("unary_unary", check)}),
    ))
    assert server.add_insecure_port("127.0.0.1:7002")
    server.start()
    server.wait_for_termination()


async def serve_websocket():
    async def echo(socket):
        async for message in socket:
            await socket.send(message)

    async with websockets.serve(echo, "127.0.0.1", 7003, max_size=16 << 20):
        await asyncio.Future()


if sys.argv[1] == "grpc":
    serve_grpc()
else:
    asyncio.run(serve_websocket())
