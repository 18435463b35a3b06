#!/usr/bin/env python3
"""A WebSocket server and client of PyPI's `websockets`, which share no code with the mesh.

The client judges what it gets, says `ok` and ends well, or says what was wrong and does not. It knows nothing of the mesh.
"""

import argparse
import socket
import sys

from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.http11 import Response
from websockets.datastructures import Headers
from websockets.sync.client import connect
from websockets.sync.server import serve


def run_server(arguments):
    def echo(connection):
        # The server speaks first.
        connection.send(f"welcome to {connection.request.path} as {connection.subprotocol}")
        for message in connection:
            if message == "bye":
                connection.close(4001, "as asked")
                return
            connection.send(message)

    def refuse(_connection, request):
        if request.path == "/refused":
            return Response(403, "Forbidden", Headers({"Content-Length": "3"}), b"no\n")
        return None

    port = int(arguments.listen.rsplit(":", 1)[1])
    both = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    with serve(echo, sock=both, subprotocols=["lab"], process_request=refuse, max_size=None) as server:
        print("listening", flush=True)
        server.serve_forever()


def expect(what, good):
    if not good:
        sys.exit(f"not as it should be: {what}")


def run_client(arguments):
    url = f"ws://{arguments.connect}"
    # Compression is negotiated by fields that must pass as well.
    with connect(f"{url}/chat", subprotocols=["lab"], max_size=None) as chat:
        welcome = chat.recv(10)
        expect(f"the welcome: {welcome!r}", welcome == "welcome to /chat as lab")
        expect("compression", chat.protocol.extensions != [])
        for number in range(200):
            chat.send(f"message {number}")
            expect(f"message {number}", chat.recv(10) == f"message {number}")
        large = bytes(range(256)) * 8192
        chat.send(large)
        got = chat.recv(20)
        expect(f"{len(got)} of {len(large)} bytes", got == large)
        chat.send(["in ", "three ", "frames"])
        expect("fragments", chat.recv(10) == "in three frames")
        expect("a pong", chat.ping().wait(10))
        chat.send("bye")
        try:
            chat.recv(10)
            expect("an end", False)
        except ConnectionClosedOK:
            expect("an end without a code", False)
        except Exception as closed:
            expect(f"the end: {closed!r}", closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked")
    try:
        connect(f"{url}/refused")
        expect("a refusal", False)
    except InvalidStatus as refused:
        expect(f"the refusal: {refused}", refused.response.status_code == 403 and refused.response.body == b"no\n")
    print("ok", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen")
    parser.add_argument("--connect")
    arguments = parser.parse_args()
    run_server(arguments) if arguments.listen else run_client(arguments)


if __name__ == "__main__":
    main()
