"""An issuer that signs nothing: run as a script it is an issuer process, steered by the orders that it gets.

An order with ``"do": "echo"`` is answered with itself, ``"die"`` ends the process, ``"hang"`` is never answered,
``"count"`` tells how many orders came.  A home whose name ends in ``broken`` cannot be opened.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys

from gateway.control.channel import ControlChannel, Done, Hello, Issue, Message, StartIssuer
from gateway.control.process import prepare_process, read_inherited


async def main(control: socket.socket) -> None:
    count = 0

    def take(message: Message) -> None:
        nonlocal count
        match message:
            case StartIssuer(id=number, home=home):
                problems = (("issuer", "the home is broken"),) if home.endswith("broken") else ()
                channel.send(Done(id=number, problems=problems, value={}))
            case Issue(id=number, order=order):
                count += 1
                if order["do"] == "die":
                    os._exit(3)
                if order["do"] == "echo":
                    channel.send(Done(id=number, value=order))
                if order["do"] == "count":
                    channel.send(Done(id=number, value={"count": count}))
            case _:
                raise AssertionError(message)

    channel = await ControlChannel.open(control, on_message=take, on_close=lambda: os._exit(0))
    channel.send(Hello(pid=os.getpid()))
    await asyncio.Event().wait()


if __name__ == "__main__":
    prepare_process()
    inherited = read_inherited(sys.argv[1:])
    if inherited is not None:
        asyncio.run(main(socket.socket(fileno=inherited.control)))
