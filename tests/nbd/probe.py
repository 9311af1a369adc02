# SPDX-License-Identifier: MIT
"""What the rules of the conformance probe are written with: checks, and the server under probe."""

import itertools
import random
import threading

import nbd_wire as nbd

MIB = 1 << 20
EXPORT_SIZE = 256 * MIB


class Failed(AssertionError):
    """The server broke the rule."""


class Skip(Exception):
    """The rule cannot be tried on this server (a feature it does not offer, no second export...)."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def expect(got, *allowed, what="answer"):
    check(got in allowed, f"{what} {got}, allowed: {' '.join(map(str, allowed))}")


def kind_name(kind):
    return nbd.REP_NAMES.get(kind, hex(kind))


def slow(rule):
    """Marks a rule that mostly waits: it runs beside the others, on a server of its own."""
    rule.slow = True
    return rule


def pattern(seed, length):
    """Bytes without any zero sector, different for every seed."""
    return random.Random(seed).randbytes(length)


class Target:
    """The server under probe, as the rules see it."""

    def __init__(self, start_server, wait_limit_s):
        self._start_server = start_server
        self._lock = threading.Lock()
        self._offsets = itertools.count(MIB, MIB)
        self.wait_limit_s = wait_limit_s
        self.server = start_server()

    @property
    def name(self):
        return self.server.name

    def region(self, length):
        """The offset of a part of the export that no other rule of this run uses (1 MiB granules, then reuse)."""
        with self._lock:
            offset = next(self._offsets)
            for _ in range((length + MIB - 1) // MIB - 1):
                next(self._offsets)
            if offset + length > self.server.size // 4 * 3:
                self._offsets = itertools.count(MIB, MIB)
                offset = 0
        return offset

    def raw(self, flags=nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES, timeout_s=10):
        """A connection that has been greeted: ready for options."""
        client = nbd.Client(self.server.address, timeout_s)
        client.greet(flags)
        return client

    def connect(self, structured=False, meta=False, read_only=False, infos=(), timeout_s=10):
        """A connection in the transmission phase. `meta`: with base:allocation."""
        if read_only and self.server.read_only_address is None:
            raise Skip("no read-only export given")
        address = self.server.read_only_address if read_only else self.server.address
        client = nbd.Client(address, timeout_s)
        client.greet()
        if structured or meta:
            if not client.structured_reply():
                raise Skip("no structured replies")
        if meta and not client.set_meta_context(self.name, ["base:allocation"]):
            raise Skip("no base:allocation")
        kind = client.go(self.name, infos)
        check(kind == nbd.REP_ACK, f"GO answered {kind_name(kind)}")
        return client

    def has_meta(self):
        """Whether the server offers base:allocation."""
        try:
            self.connect(meta=True).close()
            return True
        except Skip:
            return False

    def need(self, flag, what):
        """Skips the rule unless the server advertises a transmission flag."""
        with self.connect() as client:
            if not client.flags & flag:
                raise Skip(f"{what} not advertised")

    def in_step(self, client):
        """After options: the connection still understands options and gets into transmission."""
        kind = client.go(self.name)
        check(kind == nbd.REP_ACK, f"out of step: GO answered {kind_name(kind)}")
        self.alive(client)

    @staticmethod
    def alive(client):
        """In transmission: the connection still answers a read."""
        client.read(0, 512)

    def spawn(self):
        """A server of the rule's own, to stop or kill. The rule must stop() it."""
        server = self._start_server()
        if server.process is None:
            raise Skip("needs a server that the probe can start itself")
        return server

    def revive(self):
        """Starts the server again if it died; says whether it had to."""
        if self.server.running() and not self._refuses():
            return False
        if self.server.process is None:
            raise RuntimeError("the server is gone")
        self.server.process.wait()  # a dying one may still be writing its core file
        self.server = self._start_server()
        return True

    def _refuses(self):
        try:
            nbd.Client(self.server.address).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            pass  # busy, not dead
        return False

    def stop(self):
        self.server.stop()
