# SPDX-License-Identifier: MIT
"""Clients that stall, lie, flood or vanish must cost the others nothing; shutdown answers what is in flight."""

import os
import random
import signal
import socket
import subprocess
import threading
import time

import nbd_wire as nbd
from probe import MIB, Failed, Skip, check, expect, pattern

MEMORY_LIMIT = 192 * MIB  # what one rule's hostile clients together may add to the server's memory


class MemoryWatch:
    """Samples the server's resident memory, without pages of mapped files and shared memory."""

    def __init__(self, server):
        self.server, self.peak, self._stop = server, 0, threading.Event()
        if server.pid is None:
            raise Skip("the server's pid is not known")
        self.start = self._now()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _now(self):
        with open(f"/proc/{self.server.pid}/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))

    def _run(self):
        while not self._stop.wait(0.01):
            try:
                self.peak = max(self.peak, self._now())
            except OSError:
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def check(self, limit=MEMORY_LIMIT):
        if "thread" in os.environ.get("LBD_SANITIZE", ""):
            limit *= 3  # the sanitizer keeps notes of every byte
        grown = self.peak - self.start
        check(grown <= limit, f"memory grew by {grown // MIB} MiB, limit {limit // MIB} MiB")


def flood(c, data, seconds):
    """Sends `data` over and over without reading a reply, until the server takes no more or time is up."""
    c.sock.settimeout(0.3)
    limit, sent = time.monotonic() + seconds, 0
    try:
        while time.monotonic() < limit:
            sent += c.sock.send(data)
    except (socket.timeout, ConnectionError):
        pass
    return sent


def others_are_served(t):
    """A well-behaved client gets its answers quickly while the caller misbehaves."""
    start = time.monotonic()
    with t.connect() as c:
        for _ in range(100):
            t.alive(c)
    took = time.monotonic() - start
    check(took < 3, f"100 reads of another client took {took:.1f} s")


def rule_20_flood_of_reads_is_bounded_in_memory(t):
    reads = b"".join(nbd.request(nbd.CMD_READ, i * MIB, MIB, 0, i) for i in range(200))
    with MemoryWatch(t.server) as memory:
        clients = [t.connect(structured=i % 2) for i in range(4)]
        for c in clients:
            flood(c, reads, 1)
        others_are_served(t)
        for c in clients:
            c.close()
    memory.check()


def rule_20_flood_of_small_requests_is_bounded_in_memory(t):
    small = b"".join(nbd.request(nbd.CMD_FLUSH if i % 2 else nbd.CMD_TRIM, 0, 0 if i % 2 else 512, 0, i)
                     for i in range(2000))
    with MemoryWatch(t.server) as memory, t.connect() as c:
        flood(c, small, 2)
        others_are_served(t)
    memory.check(64 * MIB)


def rule_20_stalled_payloads_are_bounded_in_memory(t):
    head = nbd.request(nbd.CMD_WRITE, 0, 32 * MIB, 0, 1)
    with MemoryWatch(t.server) as memory:
        clients = [t.connect() for _ in range(32)]
        for c in clients:
            c.send(head + bytes(64 * 1024))
        time.sleep(0.2)
        others_are_served(t)
        for c in clients:
            c.close()
    memory.check()


def rule_30_disc_finishes_outstanding_requests(t):
    offset = t.region(4 * MIB)
    for turn in range(20):
        with t.connect(structured=turn % 2) as c:
            data = pattern(turn, 64 * 1024)
            batch = b""
            for i in range(16):
                c.expect(i, None if i % 2 else 128 * 1024)
                batch += nbd.request(nbd.CMD_WRITE, offset + i * 65536, 65536, 0, i, data) if i % 2 else \
                    nbd.request(nbd.CMD_READ, offset, 128 * 1024, 0, i)
            c.send(batch + nbd.request(nbd.CMD_DISC))
            got = []
            try:
                for _ in range(16):
                    reply = c.reply()
                    check(not reply.error, f"answered with error {reply.error} although received before DISC")
                    got.append(reply.cookie)
            except nbd.Closed:
                pass
            check(len(got) == 16, f"turn {turn}: {len(got)} of 16 replies before the end")
            check(c.closed_within(5), "still open after DISC")
        with t.connect() as c:
            check(all(c.read(offset + i * 65536, 65536) == data for i in range(1, 16, 2)), "a write is missing")


def rule_31_vanishing_clients_hurt_nobody(t):
    rng = random.Random(31)
    offset = t.region(16 * MIB)
    for turn in range(60):
        c = t.connect(structured=turn % 2)
        batch = b""
        for i in range(rng.randrange(1, 32)):
            length = rng.randrange(1, 512) * 512
            write = rng.random() < 0.5
            at = offset + rng.randrange(0, 15 * MIB) // 512 * 512
            batch += nbd.request(nbd.CMD_WRITE if write else nbd.CMD_READ, at, length, 0, i,
                                 bytes(length) if write else b"")
        c.sock.settimeout(0.02)
        try:
            c.sock.sendall(batch[:rng.randrange(1, len(batch) + 1)])
        except (socket.timeout, ConnectionError):
            pass
        c.reset() if turn % 3 else c.close()
    others_are_served(t)


def open_files(server):
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def rule_31_gone_connections_leave_nothing_behind(t):
    with MemoryWatch(t.server) as memory:
        def visit(turn):
            c = nbd.Client(t.server.address)
            if turn % 5:
                c.greet()
            if turn % 5 > 1:
                c.structured_reply()
            if turn % 5 > 2:
                c.go(t.name)
                payload = bytes(65536 if turn % 5 == 4 else 1000)
                c.send(nbd.request(nbd.CMD_READ, 0, 65536, 0, 1) +
                       nbd.request(nbd.CMD_WRITE, 0, 65536, 0, 2, payload))
            c.disconnect() if turn % 5 == 4 else c.close()

        for turn in range(50):
            visit(turn)
        time.sleep(0.5)
        before = open_files(t.server)
        for turn in range(500):
            visit(turn)
        limit = time.monotonic() + 5
        while open_files(t.server) > before and time.monotonic() < limit:
            time.sleep(0.05)
        check(open_files(t.server) <= before, f"{open_files(t.server) - before} files left open by 500 clients")
    memory.check(64 * MIB)


def rule_32_half_a_request_leaves_no_trace(t):
    offset = t.region(MIB)
    with t.connect() as c:
        data = pattern(32, MIB)
        c.write(offset, data)
    whole = nbd.request(nbd.CMD_WRITE, offset, MIB, 0, 1, bytes(MIB))
    for cut in (1, 27, 28, 29, 5000, 65536, 600_000, len(whole) - 1):
        c = t.connect()
        c.send(whole[:cut])
        c.close()
    time.sleep(0.1)
    with t.connect() as c:
        check(c.read(offset, MIB) == data, "a part of an incomplete write was written")


def rule_34_writes_of_a_dead_connection_never_land_late(t):
    """The dead client's write may or may not happen, but never after a newer one was answered."""
    size = 4 * MIB
    offset = t.region(size)
    for turn in range(15):
        old = t.connect()
        old.send(b"".join(nbd.request(nbd.CMD_WRITE, offset + i * 65536, 65536, 0, i, b"\xdd" * 65536)
                          for i in range(size // 65536)))
        old.reset() if turn % 2 else old.close()
        with t.connect() as new:
            data = pattern(turn, size)
            new.write(offset, data)
            for _ in range(3):
                check(new.read(offset, size) == data, f"turn {turn}: a dead connection's write landed late")
                time.sleep(0.005)


def ended(server, seconds):
    """The exit status; a server that does not end in time breaks the rule."""
    try:
        return server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"still running {seconds} s after the signal") from None


def stop_under_load(t, sign):
    """Stops a server under load: (errors, how connections ended, exit status, idle client closed)."""
    server = t.spawn()
    try:
        clients = []
        for i in range(4):
            c = nbd.Client(server.address)
            c.greet()
            expect(c.go(server.name), nbd.REP_ACK, what="GO")
            clients.append(c)
        idle = nbd.Client(server.address)
        idle.greet()
        errors, cut = [], []
        started = threading.Barrier(5)

        def load(c, seed):
            rng = random.Random(seed)
            started.wait()
            try:
                for cookie in range(1_000_000):
                    write, at = rng.random() < 0.5, rng.randrange(0, 100) * 65536
                    c.request(nbd.CMD_WRITE if write else nbd.CMD_READ, at, 65536, 0, cookie,
                              bytes(65536) if write else b"")
                    if cookie >= 2:  # what is unread fits into the socket, so that sending never blocks
                        error = c.reply().error
                        if error:
                            errors.append(error)
            except (nbd.Closed, OSError) as problem:
                cut.append(str(problem))
            except nbd.Broken as problem:
                errors.append(problem)

        threads = [threading.Thread(target=load, args=(c, i), daemon=True) for i, c in enumerate(clients)]
        for thread in threads:
            thread.start()
        started.wait()
        time.sleep(0.3)
        server.process.signal(sign)
        for thread in threads:
            thread.join(5)
        status = ended(server, t.wait_limit_s)
        closed = idle.closed_within(1)
        return errors, cut, status, closed
    finally:
        server.stop()


def rule_36_shutdown_ends_well_under_load(t):
    for sign in (signal.SIGTERM, signal.SIGINT):
        errors, cut, status, closed = stop_under_load(t, sign)
        wrong = [e for e in errors if e != nbd.ESHUTDOWN]
        check(not wrong, f"{sign.name}: errors {wrong[:3]}")
        check(status == 0, f"{sign.name}: exit status {status}")
        check(closed, f"{sign.name}: a client in the handshake was left connected")
        cut = [how for how in cut if "after 0 of" not in how and "sending" not in how]
        check(not cut, f"{sign.name}: connection ended inside a reply: {cut}")


def rule_36_shutdown_answers_what_it_received(t):
    """Requests whose bytes the server had long read when the signal came are answered, not dropped."""
    server = t.spawn()
    try:
        c = nbd.Client(server.address)
        c.greet()
        expect(c.go(server.name), nbd.REP_ACK, what="GO")
        data = pattern(36, MIB)
        for i in range(24):
            c.request(nbd.CMD_WRITE, i * MIB, MIB, 0, i, data)
        c.wait_read()
        time.sleep(0.2)
        server.process.signal(signal.SIGTERM)
        got = []
        try:
            for _ in range(24):
                reply = c.reply()
                expect(reply.error, 0, nbd.ESHUTDOWN, what="error")
                got.append(reply.cookie)
        except nbd.Closed:
            pass
        check(len(got) == 24, f"{len(got)} of 24 requests were answered")
        expect(ended(server, t.wait_limit_s), 0, what="exit status")
    finally:
        server.stop()


def rule_36_shutdown_does_not_wait_for_a_stalled_client(t):
    server = t.spawn()
    try:
        c = nbd.Client(server.address)
        c.greet()
        expect(c.go(server.name), nbd.REP_ACK, what="GO")
        c.send(nbd.request(nbd.CMD_WRITE, 0, MIB, 0, 1, bytes(1000)))  # and never the rest
        deaf = nbd.Client(server.address)
        deaf.greet()
        deaf.go(server.name)
        flood(deaf, b"".join(nbd.request(nbd.CMD_READ, 0, MIB, 0, i) for i in range(64)), 1)
        server.process.signal(signal.SIGTERM)
        status = ended(server, t.wait_limit_s)
        check(status == 0, f"exit status {status}")
    finally:
        server.stop()
