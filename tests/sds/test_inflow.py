"""What is counted of the bytes that a client sends, however they are cut."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from sds.inflow import Inflow
from tests.support.thin_client import PREFACE

DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM = 0x1
OVERHEAD = 512


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def message(length: int) -> bytes:
    return struct.pack("!BI", 0, length) + b"x" * length


def unfinished(*frames: bytes) -> int:
    inflow = Inflow()
    changed = inflow.feed(memoryview(PREFACE + frame(SETTINGS, 0) + b"".join(frames)))
    assert changed == inflow.unfinished
    return inflow.unfinished


def test_a_message_counts_until_it_is_whole():
    assert unfinished(frame(HEADERS, 1, b"whatever")) == 0
    assert unfinished(frame(DATA, 1, message(1000)[:3])) == OVERHEAD + 3
    assert unfinished(frame(DATA, 1, message(1000)[:-1])) == OVERHEAD + 1004
    assert unfinished(frame(DATA, 1, message(1000)[:-1]), frame(DATA, 1, b"x")) == 0


def test_messages_and_frames_need_not_begin_together():
    content = message(0) + message(7) + message(100) + message(50)[:20]
    assert unfinished(*(frame(DATA, 1, content[at : at + 9]) for at in range(0, len(content), 9))) == OVERHEAD + 20


def test_each_stream_has_a_message_of_its_own():
    frames = [frame(DATA, stream, message(1000)[:10]) for stream in (1, 3, 5)]
    assert unfinished(*frames) == 3 * (OVERHEAD + 10)
    assert unfinished(*frames, frame(DATA, 3, message(1000)[10:])) == 2 * (OVERHEAD + 10)


def test_what_a_client_gives_up_counts_no_longer():
    part = frame(DATA, 1, message(1000)[:10])
    for end in (frame(RST_STREAM, 1, b"\0" * 4), frame(DATA, 1, b"", END_STREAM), frame(HEADERS, 1, b"", END_STREAM)):
        assert unfinished(part, end) == 0
    assert unfinished(part, frame(RST_STREAM, 3, b"\0" * 4)) == OVERHEAD + 10


def test_the_reserved_bit_of_a_stream_makes_it_no_other():
    assert unfinished(frame(DATA, 1, message(9)[:10]), frame(DATA, 1 | 1 << 31, message(9)[10:])) == 0


def test_a_connection_that_is_dropped_holds_nothing():
    inflow = Inflow()
    held = inflow.feed(memoryview(PREFACE + frame(DATA, 1, message(9)[:10]) + frame(DATA, 3, b"\0")))
    assert (inflow.clear(), inflow.unfinished, inflow.clear()) == (-held, 0, 0)


FRAMES = st.lists(
    st.builds(
        frame,
        st.sampled_from([DATA, DATA, HEADERS, RST_STREAM, SETTINGS]),
        st.sampled_from([1, 3]),
        st.one_of(st.binary(max_size=20), st.integers(0, 30).map(message)),
        st.sampled_from([0, END_STREAM]),
    )
)


@given(FRAMES, st.lists(st.integers(1, 40)))
def test_it_does_not_matter_how_the_bytes_are_cut(frames: list[bytes], cuts: list[int]):
    content = memoryview(PREFACE + b"".join(frames))
    whole, cut = Inflow(), Inflow()
    whole.feed(content)
    for length in [*cuts, len(content)]:
        cut.feed(content[:length])
        content = content[length:]
    assert cut.unfinished == whole.unfinished >= 0
