# SPDX-License-Identifier: MIT
"""A load of random requests on libnbd's API, exact in what the device must hold afterwards."""

import random

import testing

SECTOR = 512


def connect(uri):
    """A libnbd handle with base:allocation where the server has it."""
    handle = testing.require_module("nbd").NBD()
    handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    return handle


class Worker:
    """One connection that keeps random requests in flight on its own part of the device, and the model of it.

    Requests in flight never overlap each other, so that the model is exact. Seeds make runs repeatable in
    what is sent; the order of replies is the server's.
    """

    def __init__(self, handle, seed, start, size, depth):
        self.nbd = testing.require_module("nbd")
        self.h, self.rng, self.depth = handle, random.Random(seed), depth
        self.start, self.size, self.model = start, size, bytearray(size)
        self.busy, self.trimmed, self.problems, self.trim = {}, [], [], handle.can_trim()

    def _free_range(self):
        while True:
            length = self.rng.choice((512, 4096, 4096, 65536, self.rng.randrange(1, 300) * SECTOR))
            start = self.rng.randrange(0, (self.size - length) // SECTOR + 1) * SECTOR
            if all(start + length <= s or s + n <= start for s, n in self.busy.values()):
                return start, length

    def submit(self):
        start, length = self._free_range()
        kind = self.rng.choice("rrrwwwwzt" if self.trim else "rrrwwwwz")
        token = object()
        self.busy[token] = (start, length)
        at = self.start + start

        def done(error, buffer=None):
            if error.value:
                self.problems.append((kind, start, length, error.value))
            elif buffer is not None and buffer.to_bytearray() != self.model[start:start + length]:
                self.problems.append((kind, start, length, "wrong data"))
            if kind == "t":
                self.trimmed.append(token)
            else:
                del self.busy[token]
            return 1

        if kind == "r":
            buffer = self.nbd.Buffer(length)
            self.h.aio_pread(buffer, at, completion=lambda error: done(error, buffer))
        elif kind == "w":
            data = self.rng.randbytes(length)
            self.model[start:start + length] = data
            buffer = self.nbd.Buffer.from_bytearray(bytearray(data))
            self.h.aio_pwrite(buffer, at, completion=lambda error, keep=buffer: done(error))
        elif kind == "z":
            self.model[start:start + length] = bytes(length)
            self.h.aio_zero(length, at, completion=done)
        else:
            self.h.aio_trim(length, at, completion=done)

    def _learn_trimmed(self, token):
        """A trimmed sector may read as before or as zeros, as the server likes: see which, then insist on it."""
        start, length = self.busy[token]
        buffer = self.nbd.Buffer(length)

        def done(_):
            data = buffer.to_bytearray()
            for at in range(0, length, SECTOR):
                sector = data[at:at + SECTOR]
                if sector != bytes(SECTOR) and sector != self.model[start + at:start + at + SECTOR]:
                    self.problems.append(("trim", start + at, SECTOR, "neither old nor zero"))
            self.model[start:start + length] = data
            del self.busy[token]
            return 1

        self.h.aio_pread(buffer, self.start + start, completion=done)

    def fill(self):
        while self.trimmed:
            self._learn_trimmed(self.trimmed.pop())
        while len(self.busy) < self.depth:
            self.submit()

    def drain(self):
        while self.busy:
            while self.trimmed:
                self._learn_trimmed(self.trimmed.pop())
            self.h.poll(-1)


class Load:
    """Four connections, each with many requests in flight on its quarter of the device.

    `base` is the device's content before (default: zeros). Call step() as often as you like, then finish().
    """

    def __init__(self, uri, seed, depth=32, base=None):
        handles = [connect(uri) for _ in range(4)]
        part = handles[0].get_size() // 4
        self.workers = [Worker(h, seed + i, i * part, part, depth) for i, h in enumerate(handles)]
        self.steps = 0
        if base:
            for worker in self.workers:
                worker.model[:] = base[worker.start:worker.start + part]

    def step(self):
        """Keeps every connection full and takes what replies there are."""
        for worker in self.workers:
            worker.fill()
            worker.h.poll(1)
        self.steps += 1

    @property
    def problems(self):
        return [problem for worker in self.workers for problem in worker.problems]

    def finish(self):
        """Waits for all replies, flushes, disconnects; returns the content that the device must have."""
        for worker in self.workers:
            worker.drain()
            worker.h.flush()
            worker.h.shutdown()
        return b"".join(bytes(worker.model) for worker in self.workers)


def wrong_status(handle, content):
    """What block status calls zero is zero and extents cover everything: "" or what is wrong."""
    zero, position = testing.require_module("nbd").STATE_ZERO, 0
    while position < len(content):
        got = []
        handle.block_status(len(content) - position, position, lambda context, at, extents, error: got.extend(extents))
        if not got:
            return f"no extent at {position}"
        for length, flags in zip(got[::2], got[1::2]):
            part = content[position:position + length]
            if flags & zero and part != bytes(len(part)):
                return f"{length} bytes at {position} are called zero and are not"
            position += length
    return ""
