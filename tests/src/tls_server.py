"""Which TLS server completes the handshake and then does not answer? The helper of tls.rs.

The records pass through memory, so that this program, not the library, decides when they go out, and can say on
standard output, one JSON line each, what passed on the wire and when.
"""

import json
import socket
import ssl
import sys
import time

certificate, key, tickets, answers, half = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(certificate, key)
if tickets == "none":
    context.num_tickets = 0


def say(event, **fields):
    print(json.dumps({"event": event, "realtime_ns": time.time_ns(), **fields}), flush=True)


def serve(connection):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    left, rest = int(answers), half == "half"

    def receive():
        data = connection.recv(65536)
        if data:
            say("received")
            incoming.write(data)
        return bool(data)

    def send(what="sent"):
        data = outgoing.read()
        if data:
            # Said first: the client's next bytes must not be overtaken by this line.
            say(what)
            connection.sendall(data)

    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            send()
            if not receive():
                return
    if tickets != "late":
        send()
    say("handshake")
    while True:
        try:
            request = tls.read(65536)
        except ssl.SSLWantReadError:
            if not receive():
                return
            continue
        if not request:
            return
        # Late tickets go out here, after the request.
        send("tickets")
        if left > 0:
            left -= 1
            tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        elif rest:
            rest = False
            tls.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of the body")
        send()
        say("heard")


listener = socket.create_server(("127.0.0.1", 0))
say("listening", port=listener.getsockname()[1])
while True:
    accepted, client = listener.accept()
    say("accepted", client="%s:%d" % client)
    try:
        serve(accepted)
    except (OSError, ssl.SSLError) as error:
        print(error, file=sys.stderr)
    say("closed")
