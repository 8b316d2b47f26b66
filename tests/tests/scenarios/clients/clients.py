"""Calls the services of servers.py through the node's port for local applications, as its users' programs would."""

import asyncio

import grpc
import websockets

NODE = ("127.0.0.1", 15001)


def call_grpc():
    options = [("grpc.default_authority", "rpc:7002"), ("grpc.max_receive_message_length", 16 << 20)]
    with grpc.insecure_channel("%s:%d" % NODE, options) as channel:
        wait = {"timeout": 20, "wait_for_ready": True}
        for message in [b"", b"hello", bytes(range(256)) * (4 << 12)]:
            assert channel.unary_unary("/Echo/Unary")(message, **wait) == message
        assert list(channel.unary_stream("/Echo/Count")(b"1000", **wait)) == [b"%d" % i for i in range(1000)]
        assert channel.stream_unary("/Echo/Sum")((b"%d" % i for i in range(1000)), **wait) == b"499500"

        asked = []

        def questions():
            for word in [b"one", b"two", b"three"]:
                asked.append(word)
                yield word

        answers = channel.stream_stream("/Echo/Chat")(questions(), **wait)
        assert [next(answers) for _ in range(3)] == [b"ONE", b"TWO", b"THREE"]
        assert list(answers) == []

        many = [channel.unary_unary("/Echo/Unary").future(b"%d" % i, **wait) for i in range(300)]
        assert [answer.result() for answer in many] == [b"%d" % i for i in range(300)]

        for method, code in [("/Echo/Refuse", grpc.StatusCode.PERMISSION_DENIED), ("/Echo/None", grpc.StatusCode.UNIMPLEMENTED)]:
            try:
                channel.unary_unary(method)(b"", **wait)
                raise AssertionError(method)
            except grpc.RpcError as error:
                assert error.code() == code, error
                if method == "/Echo/Refuse":
                    assert error.details() == "refused, as you asked: \u00fc", error.details()
                    assert ("x-why", "asked to") in error.trailing_metadata()

        slow = channel.stream_stream("/Echo/Chat")(iter(lambda: (__import__("time").sleep(30), b"")[1], None), timeout=0.5)
        try:
            next(slow)
            raise AssertionError("a deadline passed unnoticed")
        except grpc.RpcError as error:
            # On a busy machine weft, which knows the deadline, is first: with the status that Envoy gives.
            by_weft = (grpc.StatusCode.UNAVAILABLE, "upstream request timeout")
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED or (error.code(), error.details()) == by_weft, error
    print("grpc ok")


async def call_websocket():
    connect = websockets.connect("ws://chat:7003/", host=NODE[0], port=NODE[1], max_size=16 << 20, proxy=None)
    async with connect as socket:
        for message in ["hello", "", b"\0\1", "\u00fc" * 100_000, b"x" * (4 << 20)]:
            await socket.send(message)
            assert await socket.recv() == message
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code
    print("websocket ok")


call_grpc()
asyncio.run(asyncio.wait_for(call_websocket(), 30))
