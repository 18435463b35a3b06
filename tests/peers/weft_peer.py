#!/usr/bin/env python3
"""Either end of the Weft tunnel (docs/tunnel.md), written from the specification and sharing no code with the mesh.

  weft_peer.py --certs DIR --connect IP:PORT --authority IP:PORT --mode MODE [--bytes N] [--timeout S]
  weft_peer.py --certs DIR --listen IP:PORT --mode MODE

As a client MODE is `echo` (the application at --authority must send back what it gets), or one of `malformed`, each a breach
of the protocol that the server must answer by closing the tunnel. Ends with status 0 if the server did as the document says.
As a server it is one of `malformed_answers`: what each client gets to hear once it has opened a stream. Serves until it is killed.
"""

import argparse
import ipaddress
import json
import socket
import ssl
import struct
import sys
import threading
import time

HELLO, OPEN, ACCEPT, REFUSE, DATA, CREDIT, RESET, PING, PONG, GOAWAY = range(1, 11)
END = 1
PAYLOAD_MAX = 16 * 1024 - 8
WINDOW = 256 * 1024


def frame(kind, stream=0, payload=b"", flags=0):
    return struct.pack(">BBHI", kind, flags, len(payload), stream) + payload


def hello(streams=0):
    baggage = b"k8s.namespace.name=kube-system"
    return frame(HELLO, 0, struct.pack(">BHI", 1, 4, streams) + struct.pack(">BH", 2, len(baggage)) + baggage)


def opening(stream, to, first=b""):
    ip, port = endpoint(to)
    ip = ipaddress.ip_address(ip)
    v6 = 3 if ip.version == 6 else 0
    fields = bytes([v6]) + (ip.packed + struct.pack(">H", port)) + (ip.packed + struct.pack(">H", 4711))
    return frame(OPEN, stream, struct.pack(">H", len(fields)) + fields + first)


def endpoint(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def malformed(args):
    """What to send behind TLS, for each breach."""
    to = args.authority
    first = hello() + opening(1, to)
    return {
        "before-hello": frame(PING, 0, bytes(8)),
        "second-hello": hello() + hello(),
        "unknown-type": hello() + frame(77),
        "unknown-flags": first + frame(DATA, 1, b"x", flags=6),
        "too-long": hello() + struct.pack(">BBHI", DATA, 0, PAYLOAD_MAX + 1, 1),
        "out-of-turn": hello() + opening(7, to),
        "unknown-stream": hello() + frame(DATA, 9, b"x"),
        "after-end": first + frame(DATA, 1, b"x", flags=END) + frame(DATA, 1, b"y"),
        "no-credit": first + b"".join(frame(CREDIT, 1, struct.pack(">I", 0xFFFFFFFF)) for _ in range(2)),
        "wrong-side": first + frame(ACCEPT, 1),
        "pong": hello() + frame(PONG, 0, bytes(8)),
        "bad-open": hello() + frame(OPEN, 1, b"\x00\x01\x40"),
    }


def malformed_answers():
    """What a server says to a client that has opened stream 1, for each breach; `silent` says nothing."""
    greeting = hello(streams=100)
    accepted = greeting + frame(ACCEPT, 1)
    return {
        "before-hello": frame(ACCEPT, 1),
        "not-accepted": greeting + frame(DATA, 1, b"x"),
        "unknown-stream": accepted + frame(DATA, 9, b"x"),
        "opens": accepted + opening(2, "127.0.0.1:80"),
        "after-end": accepted + frame(DATA, 1, b"", flags=END) + frame(DATA, 1, b"x"),
        "no-credit": accepted + frame(CREDIT, 1, struct.pack(">I", 0xFFFFFFFF)),
        "truncated": accepted + frame(DATA, 1, b"half of it")[:12],
        "silent": b"",
    }


def context(args, side):
    tls = ssl.SSLContext(side)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(f"{args.certs}/roots.pem")
    tls.load_cert_chain(f"{args.certs}/cert.pem", f"{args.certs}/key.pem")
    tls.set_alpn_protocols(["weft/1", "h2"])
    return tls


def connect(args):
    tls = context(args, ssl.PROTOCOL_TLS_CLIENT)
    connection = tls.wrap_socket(socket.create_connection(endpoint(args.connect), args.timeout))
    connection.settimeout(args.timeout)
    if connection.selected_alpn_protocol() != "weft/1":
        raise SystemExit(f"the server chose {connection.selected_alpn_protocol()}")
    return connection


def frames(connection):
    """Every frame until the server closes."""
    held = b""
    while True:
        while len(held) >= 8:
            kind, flags, length, stream = struct.unpack(">BBHI", held[:8])
            if len(held) < 8 + length:
                break
            yield kind, flags, stream, held[8 : 8 + length]
            held = held[8 + length :]
        try:
            more = connection.recv(65536)
        except (ssl.SSLEOFError, ConnectionResetError):
            return
        if not more:
            return
        held += more


def echo(args, connection):
    """One stream: data with OPEN, data after ACCEPT as far as there is credit, an end, and all of it back."""
    pattern = bytes((i * 131 + (i >> 8) * 17) & 0xFF for i in range(args.bytes))
    sent = min(100, len(pattern))
    credit = WINDOW - sent
    connection.sendall(hello() + opening(1, args.authority, pattern[:sent]))
    back, greeted, ended = b"", False, False
    for kind, flags, stream, payload in frames(connection):
        if kind == HELLO:
            greeted = True
        elif kind == PING:
            connection.sendall(frame(PONG, 0, payload))
        elif kind == CREDIT:
            credit += struct.unpack(">I", payload)[0]
        elif kind == DATA:
            back += payload
            if payload:
                connection.sendall(frame(CREDIT, stream, struct.pack(">I", len(payload))))
            if flags & END:
                break
        elif kind != ACCEPT:
            raise SystemExit(f"frame {kind} was not expected: {payload!r}")
        while sent < len(pattern) and credit and kind in (ACCEPT, CREDIT):
            size = min(credit, PAYLOAD_MAX, len(pattern) - sent)
            connection.sendall(frame(DATA, 1, pattern[sent : sent + size]))
            sent, credit = sent + size, credit - size
        if sent == len(pattern) and not ended:
            connection.sendall(frame(DATA, 1, b"", flags=END))
            ended = True
    connection.sendall(frame(GOAWAY, 0, struct.pack(">IB", 1, 0)))
    return greeted and back == pattern


def breach(args, connection):
    """The server must say GOAWAY with the code for it, and close."""
    connection.sendall(malformed(args)[args.mode])
    last = None
    for kind, _, _, payload in frames(connection):
        last = (kind, payload)
    return last is not None and last[0] == GOAWAY and last[1][4] == 6


def say(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def answer(args, tls, tcp):
    """One tunnel: the breach after the client's first OPEN, then what the client makes of it."""
    try:
        connection = tls.wrap_socket(tcp, server_side=True)
        said, last = False, None
        for kind, _, _, payload in frames(connection):
            last = (kind, payload)
            if kind == OPEN and not said:
                said = True
                connection.sendall(malformed_answers()[args.mode])
                if args.mode == "truncated":
                    # close_notify, and a FIN behind it; the client's goodbye stays unread.
                    connection.unwrap()
        say("left", told=bool(last) and last[0] == GOAWAY and last[1][4] == 6)
    except (OSError, ssl.SSLError) as error:
        say("left", told=False, detail=str(error))


def serve(args):
    host, port = endpoint(args.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    tls = context(args, ssl.PROTOCOL_TLS_SERVER)
    say("listening")
    while True:
        tcp, _ = listener.accept()
        threading.Thread(target=answer, args=(args, tls, tcp), daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--certs", "--mode"):
        parser.add_argument(name, required=True)
    for name in ("--connect", "--authority", "--listen"):
        parser.add_argument(name)
    parser.add_argument("--bytes", type=int, default=1000)
    parser.add_argument("--timeout", type=float, default=10)
    args = parser.parse_args()
    if args.listen:
        serve(args)
    started = time.monotonic()
    connection = connect(args)
    good = echo(args, connection) if args.mode == "echo" else breach(args, connection)
    print(json.dumps({"event": "done", "ok": good, "at": round(time.monotonic() - started, 3)}), flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
