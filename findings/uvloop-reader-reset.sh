#!/usr/bin/env bash
# uvloop 0.23.0: a reader callback is never called again once a reset has come behind data.
#
# Source: uvloop 0.23.0 from PyPI, loop.add_reader (uvloop/loop.pyx and handles/poll.pyx, over uv_poll_t of libuv), on Linux.
# One would guess: add_reader calls back for as long as the descriptor is readable, as asyncio's own loops do (the
#   documentation of both says "when fd is available for reading"). Whoever reads a few bytes a turn, as back-pressure
#   has it, gets the rest in the next turns, and at last the ConnectionResetError.
# What happens: twelve bytes and a reset (close with SO_LINGER 0) lie in the socket. asyncio's loop calls back four times: three
#   times four bytes, then the error. uvloop's calls back once, with four bytes; the poll handle reports the error condition with
#   that call and stops. Eight bytes that came in order stay unread, and nobody learns that the peer has gone.
# What to do: after each read look again a moment later, or read until the socket would block.
#
# Run it: bash findings/uvloop-reader-reset.sh. It needs Python 3.11 or newer with venv, and PyPI. It fails when this changes.
set -euo pipefail
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input uvloop==0.23.0
cat >"$place/reader.py" <<'PYTHON'
import asyncio
import socket
import struct
import sys

import uvloop


def seen_by(loop):
    """What a reader that takes four bytes a turn gets of twelve bytes and a reset."""
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    ours.setblocking(False)

    def readable():
        try:
            data = ours.recv(4)
        except ConnectionResetError:
            data = "reset"
        seen.append(data)
        if data in (b"", "reset"):
            loop.remove_reader(ours)

    loop.add_reader(ours, readable)
    peer.sendall(b"one.two.end.")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    loop.run_until_complete(asyncio.sleep(1))
    loop.remove_reader(ours)
    ours.close()
    loop.close()
    return seen


of_asyncio, of_uvloop = seen_by(asyncio.new_event_loop()), seen_by(uvloop.new_event_loop())
print("asyncio:", of_asyncio)
print("uvloop:", uvloop.__version__, of_uvloop)
if of_asyncio != [b"one.", b"two.", b"end.", "reset"] or of_uvloop != [b"one."]:
    sys.exit("this has changed")
PYTHON
"$place/venv/bin/python" "$place/reader.py"
echo "as described"
