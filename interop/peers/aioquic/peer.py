"""A QUIC client and server on aioquic, for interoperability tests.

They speak hq-interop: HTTP/0.9 over QUIC, a file a stream ("GET /name").
Options and output are those of the ngtcp2 peer beside it.
"""

import argparse
import asyncio
import functools
import json
import os
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


class Peer(QuicConnectionProtocol):
    """What client and server connections have in common."""

    def __init__(self, quic, stream_handler=None, *, options):
        super().__init__(quic, stream_handler)
        self.options = options
        self.completed = HandshakeCompleted("", False, False)
        self.packets = self.key_updates = 0

    def datagram_received(self, data, addr):
        self.packets += 1
        if self.options.key_update and not self.key_updates and self.packets >= 20 and self._quic._handshake_confirmed:
            self.request_key_update()
            self.key_updates = 1
        super().datagram_received(data, addr)

    def quic_event_received(self, event):
        if isinstance(event, HandshakeCompleted):
            self.completed = event
        elif isinstance(event, StreamDataReceived):
            self.stream_data(event)
        elif isinstance(event, ConnectionTerminated):
            if event.error_code:
                print(f"peer: connection: {event.error_code:#x} {event.reason_phrase}", file=sys.stderr)
            self.report()
            self.terminated()

    def report(self):
        schedule = getattr(self._quic.tls, "key_schedule", None)
        facts = {
            "version": self._quic._version,
            "resumed": self.completed.session_resumed,
            "early_data": self.completed.early_data_accepted,
            "suite": int(schedule.cipher_suite) if schedule and schedule.cipher_suite else 0,
            "key_updates": self.key_updates,
            "packets": self.packets,
        }
        print(json.dumps(facts), flush=True)

    def terminated(self):
        pass


class Server(Peer):
    """Answers requests with files."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.requests, self.answered = {}, set()

    def stream_data(self, event):
        if event.stream_id in self.answered:
            return
        request = self.requests.pop(event.stream_id, b"") + event.data
        if event.end_stream or b"\n" in request:
            self.answered.add(event.stream_id)
            self._quic.send_stream_data(event.stream_id, self.content(request), True)
        else:
            self.requests[event.stream_id] = request[:4096]

    def content(self, request):
        name = request.split(b"\r\n")[0].removeprefix(b"GET /").decode()
        if ".." in name:
            return b""
        with open(os.path.join(self.options.dir, name), "rb") as f:
            return f.read()


class Client(Peer):
    """Downloads files."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.files = {}
        self.finished = self._loop.create_future()

    def fetch(self, names):
        for name in names:
            stream = self._quic.get_next_available_stream_id()
            self.files[stream] = open(os.path.join(self.options.dir, name), "wb")
            self._quic.send_stream_data(stream, f"GET /{name}\r\n".encode(), True)
        self.transmit()

    def stream_data(self, event):
        file = self.files[event.stream_id]
        file.write(event.data)
        if event.end_stream:
            self.files.pop(event.stream_id).close()
            if not self.files and not self.finished.done():
                self.finished.set_result(None)

    def terminated(self):
        if not self.finished.done():
            self.finished.set_exception(ConnectionError("closed before the files were complete"))


def configuration(options):
    c = QuicConfiguration(is_client=options.role == "client", alpn_protocols=["hq-interop"], idle_timeout=120)
    if options.v2:
        c.supported_versions = [V2, V1]
        c.original_version = V1 if c.is_client else None
    else:
        c.supported_versions = [V1]
    if options.chacha20:
        c.cipher_suites = [CipherSuite.CHACHA20_POLY1305_SHA256]
    if c.is_client:
        c.server_name = "localhost"
        c.load_verify_locations(options.ca)
    else:
        c.load_cert_chain(options.cert, options.key)
    return c


async def fetch(options, names, tickets, wait_ticket=False):
    """fetch downloads files on one connection; a ticket in tickets is used, and new ones are put there."""
    c = configuration(options)
    c.session_ticket = tickets.pop() if tickets else None
    early = options.early and c.session_ticket is not None
    async with connect(
        options.address,
        options.port,
        configuration=c,
        create_protocol=functools.partial(Client, options=options),
        session_ticket_handler=tickets.append,
        wait_connected=not early,
    ) as client:
        client.fetch(names)
        await client.finished
        while wait_ticket and not tickets:
            await asyncio.sleep(0.01)


async def run_client(options):
    tickets = []
    if options.each:
        for name in options.names:
            await fetch(options, [name], [])
    elif options.resume:
        await fetch(options, options.names[:1], tickets, wait_ticket=True)
        await fetch(options, options.names[1:], tickets)
    else:
        await fetch(options, options.names, [])


async def run_server(options):
    tickets = {}
    server = await serve(
        options.address,
        options.port,
        configuration=configuration(options),
        create_protocol=functools.partial(Server, options=options),
        session_ticket_fetcher=lambda ticket: tickets.pop(ticket, None),
        session_ticket_handler=lambda ticket: tickets.update({ticket.ticket: ticket}),
        retry=options.retry,
    )
    print(json.dumps({"port": server._transport.get_extra_info("sockname")[1]}), flush=True)
    await asyncio.Event().wait()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("role", choices=["server", "client"])
    p.add_argument("names", nargs="*")
    p.add_argument("--address", default="127.0.0.1")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--dir", default=".")
    for name in ("cert", "key", "ca"):
        p.add_argument("--" + name)
    for name in ("v2", "retry", "chacha20", "key-update", "resume", "early", "each"):
        p.add_argument("--" + name, action="store_true")
    options = p.parse_args()
    asyncio.run(run_client(options) if options.role == "client" else run_server(options))


main()
