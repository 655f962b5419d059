"""The control socket: every message survives the wire, and nothing else passes."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.channel import (
    ApplyState,
    Ask,
    CheckpointDue,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Drain,
    FrameDecoder,
    Hello,
    LameDuck,
    Message,
    Prepare,
    PublishLists,
    Question,
    Rollback,
    Start,
    StateFresh,
    encode,
)

ONE_OF_EACH: tuple[Message, ...] = (
    Hello(pid=7),
    Prepare(id=1, inputs={"config_text": "x", "trust": {"root": "cGVt"}}),
    Commit(id=2),
    Rollback(id=3),
    ApplyState(id=4, snapshot='{"version":1}'),
    StateFresh(at=1700000000.25),
    PublishLists(lists='{"version":1,"lists":{}}'),
    Start(id=5),
    LameDuck(id=6, at_least=1.0, timeout=30.0),
    Drain(id=6, timeout=30.0),
    Ask(id=7, question=Question.STATUS),
    Ask(id=8, question=Question.AUDIT_HEAD),
    Done(id=9, problems=(("routes.0.path", "is wrong"), ("", "és")), cut=3, value={"a": [1, None]}),
    CheckpointDue(lines=1000),
)
STREAM = b"".join(map(encode, ONE_OF_EACH))


def frame(value: object) -> bytes:
    content = orjson.dumps(value)
    return struct.pack(">I", len(content)) + content


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_message_encoded_is_decoded_the_same(message: Message) -> None:
    """What one side says is what the other side gets."""
    assert FrameDecoder().feed(encode(message)) == [message]


def test_decoder_byte_by_byte_yields_the_same_messages() -> None:
    """Where reads end does not matter."""
    decoder = FrameDecoder()
    seen = [message for byte in STREAM for message in decoder.feed(bytes([byte]))]
    assert tuple(seen) == ONE_OF_EACH


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_decoder_any_cuts_yield_the_same_messages(cuts: list[int]) -> None:
    """However the bytes are cut, the messages are the same."""
    places = [0, *sorted(cuts), len(STREAM)]
    decoder = FrameDecoder()
    seen = [one for start, end in itertools.pairwise(places) for one in decoder.feed(STREAM[start:end])]
    assert tuple(seen) == ONE_OF_EACH


@given(data=st.binary(max_size=200))
def test_decoder_any_bytes_are_messages_or_a_control_error(data: bytes) -> None:
    """Garbage never raises anything but ControlError."""
    try:
        for message in FrameDecoder().feed(data):
            assert isinstance(message, Message)
    except ControlError:
        pass


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([], id="no object"),
        pytest.param({"id": 1}, id="no type"),
        pytest.param({"type": "Launch", "id": 1}, id="unknown type"),
        pytest.param({"type": ["Commit"], "id": 1}, id="type is no string"),
        pytest.param({"type": "Commit"}, id="field missing"),
        pytest.param({"type": "Commit", "id": 1, "more": 1}, id="field too many"),
        pytest.param({"type": "Commit", "id": "1"}, id="string for a number"),
        pytest.param({"type": "Commit", "id": True}, id="boolean for a number"),
        pytest.param({"type": "Commit", "id": -1}, id="negative"),
        pytest.param({"type": "Ask", "id": 1, "question": "secret"}, id="unknown question"),
        pytest.param({"type": "StateFresh", "at": "now"}, id="string for seconds"),
        pytest.param({"type": "Prepare", "id": 1, "material": []}, id="list for an object"),
        pytest.param({"type": "ApplyState", "id": 1, "snapshot": {}}, id="object for text"),
        pytest.param({"type": "Done", "id": 1, "problems": [["a"]], "cut": 0, "value": {}}, id="problem is no pair"),
        pytest.param({"type": "Done", "id": 1, "problems": {}, "cut": 0, "value": {}}, id="problems are no list"),
    ],
)
def test_decoder_wrong_shape_is_refused(value: object) -> None:
    """A frame of another shape than its type demands is not half understood."""
    with pytest.raises(ControlError):
        FrameDecoder().feed(frame(value))


def test_decoder_frame_at_the_limit_passes_and_one_byte_more_is_refused() -> None:
    """The limit is looked at when the length arrives, before any content is kept."""
    message = encode(Commit(id=1))
    assert FrameDecoder(len(message) - 4).feed(message) == [Commit(id=1)]
    with pytest.raises(ControlError, match="over the limit"):
        FrameDecoder(len(message) - 5).feed(message[:4])


def test_messages_with_secrets_do_not_show_them() -> None:
    """The server's key and the users' HA1 are in no repr."""
    assert "cGVt" not in repr(Prepare(id=1, inputs={"server_key": "cGVt"}))
    assert "cGVt" not in repr(ApplyState(id=1, snapshot="cGVt"))


class _End:
    """One end that collects what arrives."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.closed = asyncio.Event()
        self.arrived = asyncio.Event()

    def take(self, message: Message) -> None:
        self.seen.append(message)
        self.arrived.set()

    async def open(self, sock: socket.socket) -> ControlChannel:
        return await ControlChannel.open(sock, on_message=self.take, on_close=self.closed.set)


async def test_channel_call_returns_the_answer_with_its_id() -> None:
    """Answers find their question, in whatever order they come."""
    left, right = socket.socketpair()
    ours, theirs = _End(), _End()
    asking, answering = await ours.open(left), await theirs.open(right)
    first = asyncio.create_task(asking.call(lambda number: Commit(id=number), within=5))
    second = asyncio.create_task(asking.call(lambda number: Rollback(id=number), within=5))
    while len(theirs.seen) < 2:
        theirs.arrived.clear()
        await theirs.arrived.wait()
    for cut, message in enumerate(reversed(theirs.seen)):
        answering.send(Done(id=message.id, cut=cut, value={}))  # type: ignore[union-attr]
    assert ((await first).cut, (await second).cut) == (1, 0)
    asking.close()
    await theirs.closed.wait()


async def test_channel_closed_fails_waiting_and_later_calls() -> None:
    """Nobody waits for an answer that cannot come."""
    left, right = socket.socketpair()
    ours = _End()
    channel = await ours.open(left)
    waiting = asyncio.create_task(channel.call(lambda number: Commit(id=number), within=5))
    await asyncio.sleep(0)
    right.close()
    with pytest.raises(ControlError):
        await waiting
    await ours.closed.wait()
    with pytest.raises(ControlError):
        await channel.call(lambda number: Commit(id=number), within=5)


async def test_channel_without_an_answer_in_time_says_so() -> None:
    """A silent peer is told apart from one that answered."""
    left, right = socket.socketpair()
    ours = _End()
    channel = await ours.open(left)
    with pytest.raises(ControlError, match="no answer within"):
        await channel.call(lambda number: Commit(id=number), within=0.01)
    channel.close()
    await ours.closed.wait()
    right.close()


async def test_channel_garbage_closes_it() -> None:
    """A peer that talks nonsense is not listened to any longer."""
    left, right = socket.socketpair()
    ours = _End()
    await ours.open(left)
    right.sendall(frame({"type": "Launch"}) + encode(Commit(id=1)))
    await ours.closed.wait()
    assert ours.seen == []
    assert right.recv(1) == b""
    right.close()
