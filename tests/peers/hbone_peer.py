#!/usr/bin/env python3
"""An HBONE peer that shares no code with Weft: HTTP/2 by the `h2` package, TLS by OpenSSL.

As a client it opens a tunnel to a pod and behaves as --mode says; as a server it stands where a pod's node would stand.
Both are good by default and know a number of ways to be bad. Every event is one JSON object on a line of stdout; the last
one is {"event": "done", "ok": true|false}, and the exit code says the same.

The certificate directory (--certs) holds cert.pem, key.pem and roots.pem, as `weft ca sign --out` writes them.
"""

import argparse
import contextlib
import json
import socket
import ssl
import struct
import sys
import threading
import time

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

CLIENT_MODES = {
    "echo": "CONNECT, send --bytes, half-close, expect them back and the end",
    "get": "GET instead of CONNECT",
    "bad-authority": "CONNECT to a name",
    "big-headers": "CONNECT with --bytes of headers",
    "lying-baggage": "as echo, with baggage and forwarded of somebody else",
    "reset": "CONNECT, send --bytes, then RST_STREAM",
    "goaway": "CONNECT, then GOAWAY, then go on with the stream as echo does",
    "abrupt": "CONNECT, send --bytes, then close TCP without a word",
    "no-window-update": "CONNECT, ask for data and never open the window again, until --linger has passed",
    "slow-headers": "HEADERS without END_HEADERS and an endless drip of CONTINUATION",
    "slow-handshake": "a ClientHello, byte by byte",
    "truncated": "half a ClientHello, then FIN",
    "oversized": "a TLS record larger than TLS allows",
    "no-cert": "TLS without a client certificate",
    "wrong-alpn": "TLS that offers http/1.1 only",
    "plaintext": "HTTP/1.1 without TLS",
    "plaintext-h2": "an HTTP/2 preface without TLS",
    "idle": "a tunnel without streams, until --linger has passed",
}

SERVER_MODES = {
    "echo": "accept every CONNECT and send back what comes",
    "forward": "accept every CONNECT and join it to the app at its authority",
    "status": "answer every CONNECT with --status",
    "reset": "accept, then RST_STREAM after the first data",
    "refuse-stream": "RST_STREAM(REFUSED_STREAM) for every CONNECT",
    "goaway": "as echo, with a GOAWAY after the first data of each tunnel",
    "silent": "never answer a CONNECT",
    "no-window-update": "accept and never open the window",
    "wrong-alpn": "speak http/1.1 only",
    "no-tls": "answer TLS with plaintext",
}

START = time.monotonic()
LOCK = threading.Lock()


def say(event, **fields):
    """One event, for the test that runs us."""
    with LOCK:
        line = {"event": event, "at": round(time.monotonic() - START, 3), **fields}
        print(json.dumps(line), flush=True)


def endpoint(text):
    """`ip:port` or `[ip6]:port`."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def pattern(size):
    """Bytes in which a missing or doubled piece shows."""
    block = bytes((i * 131 + (i >> 8) * 17) & 0xFF for i in range(65521))
    return (block * (size // len(block) + 1))[:size]


def identity_of(tls):
    """The peer's URI SANs."""
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI"]


def context(args, server):
    """Mutual TLS 1.3 with the certificates of --certs."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(f"{args.certs}/roots.pem")
    if args.mode != "no-cert":
        tls.load_cert_chain(f"{args.certs}/cert.pem", f"{args.certs}/key.pem")
    if not (args.mode == "idle" and args.no_alpn):
        tls.set_alpn_protocols(["http/1.1"] if args.mode == "wrong-alpn" else ["h2"])
    return tls


class Tunnel:
    """An HTTP/2 connection over TLS, and its streams."""

    def __init__(self, tls, client, window=4 << 20):
        self.tls = tls
        config = H2Configuration(
            client_side=client,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.h2 = H2Connection(config=config)
        self.window = window
        self.h2.initiate_connection()
        # As other implementations do: a larger window for streams, one for the connection that streams share.
        self.h2.update_settings({4: window})
        self.h2.increment_flow_control_window(4 * window)
        self.flush()

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.tls.sendall(data)

    def events(self):
        """Waits for the next events; None when the peer has closed."""
        data = self.tls.recv(65536)
        if not data:
            return None
        events = self.h2.receive_data(data)
        self.flush()
        return events

    def say_goodbye(self, last_stream):
        """GOAWAY by hand, since the h2 package would refuse to go on with the streams it has."""
        self.tls.sendall(self.h2.data_to_send() + b"\0\0\x08\x07\0\0\0\0\0" + struct.pack(">II", last_stream, 0))

    def consume(self, event):
        """Opens the window for what has been read."""
        if event.flow_controlled_length:
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()


class Failed(Exception):
    """What was expected did not happen."""


# --- client ---------------------------------------------------------------------------------------------------------


def dial(args):
    """TCP to the pod, from --source if given."""
    tcp = socket.create_connection(
        endpoint(args.connect), timeout=args.timeout, source_address=(args.source, 0) if args.source else None
    )
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tcp


def await_close(tcp, what):
    """The peer must hang up within --timeout."""
    try:
        while tcp.recv(65536):
            pass
        say("closed", how="fin", what=what)
    except (ConnectionError, ssl.SSLError) as error:
        say("closed", how=type(error).__name__, what=what, detail=str(error))
    except (TimeoutError, socket.timeout):
        raise Failed(f"the peer did not hang up: {what}") from None


CLIENT_HELLO = bytes.fromhex("16030101fc010001f80303") + bytes(498)


def client_below_tls(args):
    """The modes that never finish a handshake."""
    tcp = dial(args)
    if args.mode == "plaintext":
        tcp.sendall(b"GET / HTTP/1.1\r\nhost: pod\r\n\r\n")
    elif args.mode == "plaintext-h2":
        tcp.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    elif args.mode == "truncated":
        tcp.sendall(CLIENT_HELLO[: len(CLIENT_HELLO) // 2])
        tcp.shutdown(socket.SHUT_WR)
    elif args.mode == "oversized":
        tcp.sendall(b"\x16\x03\x01" + struct.pack(">H", 0xFFFF) + bytes(0xFFFF))
    elif args.mode == "slow-handshake":
        tcp.settimeout(0.1)
        deadline = time.monotonic() + args.timeout
        for byte in CLIENT_HELLO * 100:
            try:
                tcp.sendall(bytes([byte]))
                if not tcp.recv(4096):
                    break
            except (TimeoutError, socket.timeout):
                if time.monotonic() > deadline:
                    raise Failed("the peer waits for ever") from None
            except ConnectionError:
                break
        say("closed", what=args.mode)
        return
    await_close(tcp, args.mode)


def client_tls(args):
    """TLS; says who answered."""
    tls = context(args, server=False).wrap_socket(dial(args))
    say("tls", identity=identity_of(tls), cipher=tls.cipher()[0], alpn=tls.selected_alpn_protocol())
    if args.server_identity and identity_of(tls) != [args.server_identity]:
        raise Failed(f"the server is {identity_of(tls)}")
    return tls


def request_headers(args):
    """The CONNECT of this mode."""
    client = f"{args.source or '127.0.0.1'}:40000"
    headers = [(":method", "CONNECT"), (":authority", args.authority), ("forwarded", f'for="{client}"')]
    baggage = "k8s.namespace.name=peers,k8s.pod.name=hbone-peer,service.name=hbone-peer,service.version=py"
    if args.mode == "get":
        headers = [(":method", "GET"), (":scheme", "https"), (":authority", args.authority), (":path", "/")]
    elif args.mode == "bad-authority":
        headers[1] = (":authority", "echo.shop.svc.cluster.local:80")
    elif args.mode == "lying-baggage":
        baggage = "k8s.namespace.name=kube-system,k8s.deployment.name=admin,service.name=admin,service.version=v0"
        headers[2] = ("forwarded", 'for="192.0.2.66:1"')
    elif args.mode == "big-headers":
        headers += [(f"x-{i}", "y" * 1000) for i in range(args.bytes // 1000)]
    return [*headers, ("baggage", baggage), ("traceparent", f"00-{1:032x}-{1:016x}-01")]


def client(args):
    """One tunnel, one stream."""
    if args.mode in ("plaintext", "plaintext-h2", "truncated", "oversized", "slow-handshake"):
        return client_below_tls(args)
    try:
        tls = client_tls(args)
    except ssl.SSLError as error:
        # Some servers refuse before a TLS 1.3 client thinks it is done, some after.
        say("closed", how="SSLError", detail=str(error), what=args.mode)
        if args.mode in ("no-cert", "wrong-alpn"):
            return None
        raise
    if args.mode in ("no-cert", "wrong-alpn"):
        return await_close(tls, args.mode)
    tunnel = Tunnel(tls, client=True)
    if args.mode == "idle":
        tls.settimeout(args.linger)
        return linger(tunnel)
    if args.mode == "slow-headers":
        return slow_headers(args, tunnel)
    return exchange(args, tunnel)


def linger(tunnel):
    """Answers PINGs and settings, nothing else."""
    deadline = time.monotonic() + tunnel.tls.gettimeout()
    try:
        while time.monotonic() < deadline:
            if tunnel.events() is None:
                say("closed", how="fin", what="idle")
                return
    except (TimeoutError, socket.timeout):
        pass
    say("lingered")


def slow_headers(args, tunnel):
    """A header block that never ends; the peer must not wait for it for ever."""
    block = bytes([0x82])
    tunnel.tls.sendall(bytes([0, 0, 1, 1, 0, 0, 0, 0, 1]) + block)
    deadline = time.monotonic() + args.timeout
    tunnel.tls.settimeout(0.2)
    while time.monotonic() < deadline:
        try:
            tunnel.tls.sendall(bytes([0, 0, 1, 9, 0, 0, 0, 0, 1]) + block)
            if not tunnel.tls.recv(65536):
                break
        except (TimeoutError, socket.timeout):
            continue
        except (ConnectionError, ssl.SSLError):
            break
    else:
        raise Failed("the peer waits for ever")
    say("closed", what=args.mode)


def exchange(args, tunnel):
    """CONNECT and what the mode does with the stream."""
    stream = tunnel.h2.get_next_available_stream_id()
    tunnel.h2.send_headers(stream, request_headers(args), end_stream=args.mode == "get")
    tunnel.flush()
    payload, sent, got, status, ended = pattern(args.bytes), 0, bytearray(), None, False
    deadline = time.monotonic() + (args.linger if args.mode == "no-window-update" else args.timeout)
    while not ended:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        tunnel.tls.settimeout(left)
        try:
            events = tunnel.events()
        except (TimeoutError, socket.timeout):
            break
        if events is None:
            say("closed", how="fin", what=args.mode)
            break
        for event in events:
            if isinstance(event, ResponseReceived):
                headers = dict(event.headers)
                status = int(headers[":status"])
                say("response", status=status, baggage=headers.get("baggage"))
                if status == 200 and args.mode == "goaway":
                    tunnel.say_goodbye(0)
            elif isinstance(event, DataReceived):
                got += event.data
                if args.mode != "no-window-update":
                    tunnel.consume(event)
            elif isinstance(event, StreamEnded):
                ended = True
            elif isinstance(event, StreamReset):
                say("reset", code=int(event.error_code))
                ended = True
            elif isinstance(event, ConnectionTerminated):
                say("goaway", code=int(event.error_code))
                ended = status is None
        if status == 200 and sent < len(payload):
            sent = push(tunnel, stream, payload, sent)
            if sent == len(payload):
                if args.mode == "reset":
                    tunnel.h2.reset_stream(stream, ErrorCodes.CANCEL)
                    tunnel.flush()
                    say("sent", bytes=sent)
                    time.sleep(0.2)
                    return
                if args.mode == "abrupt":
                    say("sent", bytes=sent)
                    abort(tunnel.tls)
                    return
                if args.mode != "no-window-update":
                    tunnel.h2.end_stream(stream)
                    tunnel.flush()
    say("received", bytes=len(got), intact=bytes(got) == payload)
    judge(args, status, bytes(got) == payload, ended)


def abort(tls):
    """TCP reset, without a close_notify."""
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tls.close()


def push(tunnel, stream, payload, sent):
    """Sends what the windows allow."""
    while sent < len(payload):
        room = min(tunnel.h2.local_flow_control_window(stream), tunnel.h2.max_outbound_frame_size)
        if room == 0:
            break
        tunnel.h2.send_data(stream, payload[sent : sent + room])
        sent += room
        tunnel.flush()
    return min(sent, len(payload))


def judge(args, status, intact, ended):
    """Whether the peer did what a good one does."""
    if args.expect_status is not None:
        if status != args.expect_status:
            raise Failed(f"status {status}, expected {args.expect_status}")
    elif args.mode in ("echo", "lying-baggage", "goaway") and not (status == 200 and intact and ended):
        raise Failed(f"status {status}, intact {intact}, ended {ended}")


# --- server ---------------------------------------------------------------------------------------------------------


def server(args):
    """Accepts tunnels until it is killed, or after --count streams."""
    host, port = endpoint(args.listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=128)
    say("listening", address=args.listen, port=listener.getsockname()[1])
    done = threading.Semaphore(0)
    tls = context(args, server=True)
    threading.Thread(target=accept_all, args=(args, listener, tls, done), daemon=True).start()
    for _ in range(args.count):
        done.acquire()


def accept_all(args, listener, tls, done):
    while True:
        tcp, address = listener.accept()
        threading.Thread(target=serve_tunnel, args=(args, tcp, address, tls, done), daemon=True).start()


def serve_tunnel(args, tcp, address, tls, done):
    """One tunnel, in its own thread."""
    try:
        if args.mode == "no-tls":
            tcp.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            tcp.close()
            done.release()
            return
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = tls.wrap_socket(tcp, server_side=True)
        say("tunnel", source=address[0], identity=identity_of(tls), cipher=tls.cipher()[0], group=group_of(tls))
        Served(args, Tunnel(tls, client=False), done).run()
    except (ConnectionError, ssl.SSLError, ProtocolError, OSError) as error:
        say("tunnel-closed", how=type(error).__name__, detail=str(error))


def group_of(tls):
    """The key exchange group, where this Python can tell."""
    return tls.group() if hasattr(tls, "group") else None


class Served:
    """The streams of one accepted tunnel."""

    def __init__(self, args, tunnel, done):
        self.args, self.tunnel, self.done = args, tunnel, done
        self.waiting = {}  # stream -> bytes not sent yet
        self.ending = set()  # streams to end when sent
        self.apps = {}
        self.said_goodbye = False
        self.lock = threading.RLock()

    def run(self):
        while True:
            data = self.tunnel.tls.recv(65536)
            if not data:
                say("tunnel-closed", how="fin")
                return
            with self.lock:
                for event in self.tunnel.h2.receive_data(data):
                    self.handle(event)
                self.tunnel.flush()

    def handle(self, event):
        if isinstance(event, RequestReceived):
            self.request(event.stream_id, dict(event.headers))
        elif isinstance(event, DataReceived):
            self.data(event)
        elif isinstance(event, StreamEnded):
            self.ended(event.stream_id)
        elif isinstance(event, StreamReset):
            say("reset", stream=event.stream_id, code=int(event.error_code))
            self.forget(event.stream_id)
        elif isinstance(event, WindowUpdated):
            for stream in list(self.waiting):
                self.drain(stream)
        elif isinstance(event, ConnectionTerminated):
            say("goaway", code=int(event.error_code))

    def request(self, stream, headers):
        say("request", stream=stream, headers=headers)
        mode = self.args.mode
        if mode == "silent":
            return
        if mode == "refuse-stream":
            self.tunnel.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            self.done.release()
            return
        status = self.args.status if mode == "status" else 200
        if mode == "forward":
            try:
                self.apps[stream] = socket.create_connection(endpoint(headers[":authority"]), timeout=5)
            except OSError:
                status = 503
        answer = [(":status", str(status)), ("baggage", "k8s.namespace.name=peers,service.name=hbone-peer")]
        self.tunnel.h2.send_headers(stream, answer, end_stream=status != 200)
        if status != 200:
            self.done.release()
        elif mode == "forward":
            threading.Thread(target=self.from_app, args=(stream, self.apps[stream]), daemon=True).start()
        self.waiting.setdefault(stream, bytearray())

    def data(self, event):
        stream, mode = event.stream_id, self.args.mode
        if mode == "no-window-update":
            return
        self.tunnel.h2.acknowledge_received_data(event.flow_controlled_length, stream)
        if mode == "reset":
            self.tunnel.h2.reset_stream(stream, ErrorCodes.CANCEL)
            self.forget(stream)
            return
        if mode == "forward":
            with contextlib.suppress(OSError):  # the app is gone; its own end says so to the other side
                self.apps[stream].sendall(event.data)
            return
        self.waiting.setdefault(stream, bytearray()).extend(event.data)
        self.drain(stream)
        if mode == "goaway" and not self.said_goodbye:
            self.said_goodbye = True
            self.tunnel.say_goodbye(stream)
            say("said-goaway", last_stream=stream)

    def ended(self, stream):
        if self.args.mode == "forward" and stream in self.apps:
            with contextlib.suppress(OSError):
                self.apps[stream].shutdown(socket.SHUT_WR)
        else:
            self.ending.add(stream)
            self.drain(stream)

    def drain(self, stream):
        """Sends what the windows allow, then the end if it has come."""
        rest = self.waiting.get(stream)
        if rest is None:
            return
        while rest:
            room = min(self.tunnel.h2.local_flow_control_window(stream), self.tunnel.h2.max_outbound_frame_size)
            if room <= 0:
                return
            self.tunnel.h2.send_data(stream, bytes(rest[:room]))
            del rest[:room]
        if stream in self.ending:
            self.tunnel.h2.end_stream(stream)
            say("finished", stream=stream)
            self.forget(stream)

    def from_app(self, stream, app):
        """What the app says goes to the tunnel."""
        try:
            while True:
                data = app.recv(65536)
                with self.lock:
                    if stream not in self.waiting:
                        return
                    self.waiting[stream].extend(data)
                    if not data:
                        self.ending.add(stream)
                    self.drain(stream)
                    self.tunnel.flush()
                if not data:
                    return
        except OSError:
            with self.lock:
                if stream in self.waiting:
                    self.tunnel.h2.reset_stream(stream, ErrorCodes.CANCEL)
                    self.tunnel.flush()
                    self.forget(stream)

    def forget(self, stream):
        if self.waiting.pop(stream, None) is not None:
            self.done.release()
        self.ending.discard(stream)


# --- command line ---------------------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    roles = parser.add_subparsers(dest="role", required=True)
    for role, modes in (("client", CLIENT_MODES), ("server", SERVER_MODES)):
        listed = "\n".join(f"  {mode:18} {what}" for mode, what in modes.items())
        sub = roles.add_parser(role, epilog=f"modes:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter)
        sub.add_argument("--certs", required=True, help="directory with cert.pem, key.pem and roots.pem")
        sub.add_argument("--mode", choices=modes, default="echo")
        sub.add_argument("--bytes", type=int, default=100_000)
        sub.add_argument("--timeout", type=float, default=20.0, help="seconds")
        sub.add_argument("--linger", type=float, default=5.0, help="seconds")
        sub.add_argument("--no-alpn", action="store_true", help="offer no protocol at all (mode idle)")
        if role == "client":
            sub.add_argument("--connect", required=True, help="the pod's ip:15008")
            sub.add_argument("--authority", required=True, help="what to CONNECT to")
            sub.add_argument("--source", help="address to dial from")
            sub.add_argument("--server-identity", help="the only identity accepted")
            sub.add_argument("--expect-status", type=int)
        else:
            sub.add_argument("--listen", required=True, help="ip:port")
            sub.add_argument("--status", type=int, default=503)
            sub.add_argument("--count", type=int, default=1 << 30, help="end after so many streams")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        (client if args.role == "client" else server)(args)
    except (Failed, OSError, ProtocolError) as error:
        say("done", ok=False, why=f"{type(error).__name__}: {error}")
        return 1
    say("done", ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
