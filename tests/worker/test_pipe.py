"""Bodies that only pass through: to a slow sink, to one that has gone, and where the kernel cannot splice."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from bench.worker import pipe
from bench.worker.frames import Decoder, encode
from bench.worker.pipe import PIPE_BYTES, Pipe

SIZES = [1, 4095, 600_000, PIPE_BYTES, 3 * PIPE_BYTES + 7]


class Line:
    """A pipe of ours between two far ends: what is written to `feed` comes in, what is sent is read from `drain`."""

    def __init__(self):
        read, self.feed = os.pipe()
        self.drain, write = os.pipe()
        self.pipe = Pipe(read, write)

    def write(self, data):
        """All of it, while somebody else reads."""

        def work():
            with open(self.feed, "wb", closefd=False) as file:
                file.write(data)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def close(self):
        self.pipe.close()
        for fd in (self.feed, self.drain):
            try:
                os.close(fd)
            except OSError:
                pass  # the test closed it


@pytest.fixture
def lines():
    made = []

    def make():
        made.append(Line())
        return made[-1]

    yield make
    for line in made:
        line.close()


@pytest.fixture(params=["spliced", "copied"])
def way(request, monkeypatch):
    """With and without a kernel that can do it."""

    def cannot(*args, **more):
        raise OSError(errno.EINVAL, "")

    if request.param == "copied":
        monkeypatch.setattr(pipe.os, "splice", cannot)


def passed(source, sink, size):
    """What comes out of the sink's far end while the body passes, with pieces of any size."""
    got, out = bytearray(), []

    def drain():
        while len(got) < size and (data := os.read(sink.drain, 70_001)):
            got.extend(data)

    thread = threading.Thread(target=drain)
    thread.start()
    while source.pipe.follows or sink.pipe.pending:
        out.append(source.pipe.pass_on(sink.pipe))
        sink.pipe.flush()
    thread.join(30)
    assert any(out)
    return bytes(got)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_passes_whole_and_the_next_frame_is_not_touched(lines, way, size):
    source, sink = lines(), lines()
    body = os.urandom(size)
    writer = source.write(encode({"id": 1}, [body]) + encode({"id": 2}))
    frames = []
    while not frames:
        frames, _ = source.pipe.receive()
    assert [(f.header, f.body, f.follows) for f in frames] == [({"id": 1}, b"", size)]
    assert source.pipe.receive() == ([], False), "nothing else is received before it has passed"
    assert passed(source, sink, size) == body
    while not (frames := source.pipe.receive()[0]):
        pass
    assert [(f.header, f.follows) for f in frames] == [({"id": 2}, 0)]
    writer.join(30)


@pytest.mark.parametrize("gone", [True, False])
def test_a_body_that_nobody_takes_is_dropped(lines, way, gone):
    source, sink = lines(), lines()
    writer = source.write(encode({"id": 1}, [bytes(2 * PIPE_BYTES)]) + encode({"id": 2}))
    while not source.pipe.receive()[0]:
        pass
    if gone:
        os.close(sink.drain)
    while source.pipe.follows:
        source.pipe.pass_on(sink.pipe if gone else None)
    while not (frames := source.pipe.receive()[0]):
        pass
    assert frames[0].header == {"id": 2}
    assert not source.pipe.ended
    writer.join(30)


def test_a_source_that_ends_in_the_middle(lines, way):
    source, sink = lines(), lines()
    os.write(source.feed, encode({"id": 1}, [bytes(1000)])[:-1])
    os.close(source.feed)
    assert source.pipe.receive()[0][0].follows == 1000
    source.pipe.pass_on(sink.pipe)
    assert source.pipe.ended
    assert source.pipe.follows == 1


def test_a_sink_without_room_is_not_waited_for_without_end(lines, way):
    source, sink = lines(), lines()
    writer = source.write(encode({"id": 1}, [bytes(4 * PIPE_BYTES)]))
    while not source.pipe.receive()[0]:
        pass
    while source.pipe.pass_on(sink.pipe):
        pass
    assert source.pipe.blocked
    assert not source.pipe.pass_on(sink.pipe)
    assert passed(source, sink, 4 * PIPE_BYTES) == bytes(4 * PIPE_BYTES)
    writer.join(30)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_that_will_never_be_whole_is_made_up_for(lines, way, size):
    source, sink = lines(), lines()
    writer = source.write(encode({"id": 1}, [b"x" * size])[:-1])
    while not source.pipe.receive()[0]:
        pass
    source.pipe.pass_on(sink.pipe)
    left = source.pipe.follows
    source.pipe.make_up(sink.pipe)
    sink.pipe.send([b"next"])
    got = bytearray()
    while len(got) < size + 4:
        sink.pipe.flush()
        got += os.read(sink.drain, 1 << 20)
    assert left
    assert got == b"x" * (size - left) + bytes(left) + b"next"
    os.set_blocking(source.pipe.read_fd, True)
    while left > 1:
        left -= len(os.read(source.pipe.read_fd, left - 1))
    writer.join(30)


def test_what_is_asked_for_is_what_a_header_lacks():
    decoder, data = Decoder(bodies=False), encode({"id": 1}, [b"abc"])
    frames, at = [], 0
    while not frames:
        step = min(decoder.wanted, 7)
        frames += decoder.feed(data[at : at + step])
        at += step
    assert (data[at:], frames[0].follows, frames[0].body) == (b"abc", 3, b"")
