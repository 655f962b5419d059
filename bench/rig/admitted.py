"""A worker that is admitted again and again, with any type of key: the rig of `bench/run admission --key-type mldsa65`.

The C rig has the system's OpenSSL, which may know no ML-DSA; this one has that of the build under test, by whose Python
it is run. One connection at a time: a full handshake, the 401, the answer to it, the 101, and its end. The server's
path is not looked at, as the C rig looks at none; what this end spends is not measured.

    admitted.py BUNDLE PORT TARGET SECONDS

Prints one JSON object with the counts of the C rig.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sys
import time
from hashlib import sha256
from pathlib import Path

from OpenSSL import SSL

from rhttp.tls.binding import use_private_key

_FIELD = re.compile(rb'(realm|nonce)="([^"]*)"')


def context_of(bundle: Path) -> SSL.Context:
    """TLS with the leaf of a bundle alone, which is what our agents send to a server that names its CA."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    context.use_certificate_file(str(bundle / "cert.pem"))
    use_private_key(context, (bundle / "key.pem").read_bytes())
    return context


def hashed(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def be_admitted(context: SSL.Context, port: int, target: str, user: str, password: str) -> None:
    """One admission; an AssertionError when it is refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as our agents do: two writes follow one another
        connection = SSL.Connection(context, sock)
        connection.set_connect_state()
        connection.do_handshake()
        head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: PTTH/1.0\r\n"
        head += "Content-Length: 0\r\n"
        connection.sendall(f"{head}\r\n".encode())
        answer = read_head(connection)
        assert answer.startswith(b"HTTP/1.1 401 "), answer
        told = dict(_FIELD.findall(answer))
        realm, nonce, cnonce = told[b"realm"].decode(), told[b"nonce"].decode(), secrets.token_hex(8)
        secret, request = hashed(f"{user}:{realm}:{password}"), hashed(f"POST:{target}")
        response = hashed(f"{secret}:{nonce}:00000001:{cnonce}:auth:{request}")
        connection.sendall(
            (
                f'{head}Authorization: Digest username="{user}", realm="{realm}", nonce="{nonce}", '
                f'uri="{target}", algorithm=SHA-256, qop=auth, nc=00000001, cnonce="{cnonce}", '
                f'response="{response}"\r\n\r\n'
            ).encode()
        )
        answer = read_head(connection)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        connection.shutdown()


def read_head(connection: SSL.Connection) -> bytes:
    """A head, with what came behind it: the content of a 401 is short."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, content = data.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: *(\d+)", head)
    left = (int(found[1]) if found else 0) - len(content)
    while left > 0:
        left -= len(connection.recv(65536))
    return head


def main() -> None:
    """Be admitted for so many seconds."""
    bundle, port, target, seconds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    context = context_of(bundle)
    password = (bundle / "password").read_text().strip()
    times, errors, began = [], 0, time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        try:
            be_admitted(context, port, target, bundle.name, password)
        except (AssertionError, OSError, SSL.Error) as error:
            print(repr(error), file=sys.stderr)
            errors += 1
            break
        times.append((time.perf_counter() - now) * 1e6)
    took = time.perf_counter() - began
    times.sort()
    counts = {"done": len(times), "per_second": len(times) / took, "errors": {"admission": errors}}
    for name, part in (("p50_us", 0.5), ("p99_us", 0.99)):
        counts[name] = times[min(int(len(times) * part), len(times) - 1)] if times else 0.0
    print(json.dumps(counts))


main()
