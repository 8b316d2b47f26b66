"""An external authorizer by gRPC on 127.0.0.1:7005. It lets in whose request has the header `x-answer: yes`, and has the
workload told `x-user: ann`. Its messages are those of envoy.service.auth.v3, taken apart and put together by hand."""

from concurrent import futures

import grpc


def number(message, at):
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(message):
    """The fields of a message: their numbers with their contents."""
    at = 0
    while at < len(message):
        key, at = number(message, at)
        value, at = number(message, at)
        if key & 7 == 2:
            value, at = message[at:at + value], at + value
        yield key >> 3, value


def inside(message, *path):
    """All that is found in a message by this path of fields."""
    if not path:
        return [message]
    return [found for key, value in fields(message) if key == path[0] for found in inside(value, *path[1:])]


def field(key, content):
    assert len(content) < 0x80
    return bytes([key << 3 | 2, len(content)]) + content


def check(request, _context):
    http = inside(request, 1, 4, 2)[0]
    headers = {inside(entry, 1)[0]: inside(entry, 2)[0] for entry in inside(http, 3)}
    assert headers[b":path"] == inside(http, 4)[0] and headers[b":method"] == inside(http, 2)[0]
    if headers.get(b"x-answer") == b"yes":
        user = field(1, field(1, b"x-user") + field(2, b"ann"))
        return field(1, b"") + field(3, field(2, user))
    caller = inside(request, 1, 1, 4)[0]
    return field(1, b"\x08\x07") + field(2, field(1, b"\x08\x91\x03") + field(3, b"no " + caller))


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((
    grpc.method_handlers_generic_handler(
        "envoy.service.auth.v3.Authorization", {"Check": grpc.unary_unary_rpc_method_handler(check)}
    ),
))
assert server.add_insecure_port("127.0.0.1:7005")
server.start()
server.wait_for_termination()
