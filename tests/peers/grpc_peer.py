#!/usr/bin/env python3
"""A gRPC server and client of the reference implementation (grpcio), which shares no code with the mesh.

The messages are bytes; no generated code is needed. The client judges what it gets, says `ok` and ends well, or says what
was wrong and does not. It knows nothing of the mesh.
"""

import argparse
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "lab.Real"
PAYLOAD = bytes(range(256)) * 4096


def serve(arguments):
    def unary(request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-name", arguments.name), ("x-authority", seen.get("x-sent", ""))))
        context.set_trailing_metadata((("x-trailing", "after"),))
        return request

    def fail(_request, context):
        context.set_trailing_metadata((("x-reason", "asked for"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: 50 % \u00e9")

    def slow(request, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(20)
        return request

    def stream(request, _context):
        for number in range(int(request)):
            yield b"%d" % number + PAYLOAD[:1000]

    def chat(requests, _context):
        for request in requests:
            yield request + b"!"

    def collect(requests, _context):
        return b"%d" % sum(len(request) for request in requests)

    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
    }
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(arguments.listen)
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def expect(what, good):
    if not good:
        sys.exit(f"not as it should be: {what}")


def call(arguments):
    with grpc.insecure_channel(arguments.connect) as channel:
        path = f"/{SERVICE}/"
        unary = channel.unary_unary(path + "Unary")
        for number in range(arguments.count):
            reply, done = unary.with_call(b"%d" % number, timeout=10, metadata=(("x-sent", "by-the-client"),))
            expect(f"unary {number}: {reply!r}", reply == b"%d" % number)
        initial, trailing = dict(done.initial_metadata()), dict(done.trailing_metadata())
        expect(f"initial metadata: {initial}", initial.get("x-authority") == "by-the-client")
        expect(f"trailing metadata: {trailing}", trailing.get("x-trailing") == "after")
        large = unary(PAYLOAD * 3, timeout=20)
        expect(f"{len(large)} of {3 * len(PAYLOAD)} bytes", large == PAYLOAD * 3)
        for method, code in (("Fail", grpc.StatusCode.FAILED_PRECONDITION), ("Slow", grpc.StatusCode.DEADLINE_EXCEEDED),
                             ("Unknown", grpc.StatusCode.UNIMPLEMENTED)):
            try:
                channel.unary_unary(path + method)(b"", timeout=0.5 if method == "Slow" else 10)
                expect(f"{method} fails", False)
            except grpc.RpcError as error:
                expect(f"{method}: {error}", error.code() == code)
                if method == "Fail":
                    expect(f"details: {error.details()!r}", error.details() == "as asked: 50 % \u00e9")
                    expect("its trailing metadata", dict(error.trailing_metadata()).get("x-reason") == "asked for")
        streamed = list(channel.unary_stream(path + "Stream")(b"500", timeout=20))
        expect(f"{len(streamed)} streamed", [s[:-1000] for s in streamed] == [b"%d" % n for n in range(500)])
        collected = channel.stream_unary(path + "Collect")((PAYLOAD[:10000] for _ in range(200)), timeout=20)
        expect(f"collected {collected!r}", collected == b"2000000")
        chat(channel.stream_stream(path + "Chat"))
    print("ok", flush=True)


def chat(method):
    """Each message waits for the answer to the one before: nothing may be held back on the way."""
    answered = threading.Semaphore(1)

    def messages():
        for number in range(50):
            answered.acquire()
            yield b"%d" % number

    got = []
    for reply in method(messages(), timeout=20):
        got.append(reply)
        answered.release()
    expect(f"a chat of {len(got)}", got == [b"%d!" % number for number in range(50)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen")
    parser.add_argument("--name", default="")
    parser.add_argument("--connect")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    serve(arguments) if arguments.listen else call(arguments)


if __name__ == "__main__":
    main()
