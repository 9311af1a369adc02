# SPDX-License-Identifier: MIT
"""Scenarios of our own on libnbd's API: many requests in flight, several connections, a plain model beside."""

import json
import random

import interop
import testing
from interop import MIB
from load import SECTOR, Load, connect, wrong_status


class Libnbd(interop.Case):
    def setUp(self):
        super().setUp()
        self.nbd = testing.require_module("nbd")
        testing.require("qemu-img", "nbdinfo")

    def load(self, uri, seed, base=None):
        """A load of a few thousand requests; returns the device's expected content."""
        work = Load(uri, seed, base=base)
        for _ in range(150):
            work.step()
            if work.steps % 50 == 0:
                work.workers[work.steps % 4].h.flush()
        expected = work.finish()
        self.assertEqual(work.problems, [])
        return expected

    def assert_content(self, uri, expected):
        h = connect(uri)
        for start in range(0, len(expected), MIB):
            part = expected[start:start + MIB]
            self.assertTrue(h.pread(len(part), start) == part, f"wrong bytes in the MiB at {start}")
        self.assertEqual(wrong_status(h, expected), "")
        h.shutdown()

    def check_stack(self, *layers, base=None, persistent=True):
        expected = base
        for seed in (100, 200):
            server = self.serve(*layers)
            expected = self.load(server.uri, seed, base=expected)
            self.assert_content(server.uri, expected)
            if not persistent:
                return
            self.assertEqual(server.stop(), 0)
        server = self.serve(*layers)
        self.assert_content(server.uri, expected)
        self.assertEqual(server.stop(), 0)

    def test_memory(self):
        self.check_stack("--source", "mem:16M", persistent=False)

    def test_flat_file(self):
        self.check_stack("-s", "16M", "-f", self.zero_file())
        self.check_stack("--source", f"file:{self.zero_file('direct.img')}?direct=1")

    def zero_file(self, name="flat.img"):
        with open(self.path(name), "wb") as file:
            file.truncate(16 * MIB)
        return self.path(name)

    def test_change_file(self):
        top = self.path("top.qcow2")
        self.check_stack("-s", "16M", "-E", top)
        self.assert_clean(top)

    def test_change_file_over_flat_file(self):
        base = self.data_file("base.img", 16 * MIB)
        before = interop.digest(base)
        self.check_stack("-E", self.path("top.qcow2"), "-f", base, base=interop.read_file(base))
        self.assertEqual(interop.digest(base), before)
        self.assert_clean(self.path("top.qcow2"))

    def test_change_file_over_nbd(self):
        base = self.data_file("base.img", 16 * MIB)
        lower = self.serve("-r", "-f", base)
        self.check_stack("-E", self.path("top.qcow2"), "-n", lower.uri, base=interop.read_file(base))
        self.assertEqual(lower.stop(), 0)

    def neighbours(self, unit, *layers, base):
        """Four connections write every fourth piece of the same clusters at once: no piece may be lost to another."""
        server = self.serve(*layers)
        handles = [connect(server.uri) for _ in range(4)]
        expected = bytearray(base)
        for turn in range(3):
            rng = random.Random(turn)
            pieces = rng.sample(range(2 * MIB // unit), min(2000, 2 * MIB // unit))
            for piece in pieces:
                data = rng.randbytes(unit)
                expected[piece * unit:(piece + 1) * unit] = data
                h = handles[piece % 4]
                while h.aio_in_flight() > 60:
                    h.poll(-1)
                buffer = self.nbd.Buffer.from_bytearray(bytearray(data))
                h.aio_pwrite(buffer, piece * unit, completion=lambda error: 1)
            for h in handles:
                while h.aio_in_flight():
                    h.poll(-1)
            got = bytes(handles[turn].pread(2 * MIB, 0))
            self.assertTrue(got == expected[:2 * MIB], f"turn {turn}: a neighbour was lost")
        for h in handles:
            h.shutdown()
        self.assertEqual(server.stop(), 0)
        return bytes(expected)

    def test_neighbouring_pieces_of_clusters(self):
        base = self.data_file("base.img", 4 * MIB, holes=False)
        content = interop.read_file(base)
        for unit in (512, 2048, 3 * 512, 1, 700):
            top = self.path(f"top{unit}.qcow2")
            expected = self.neighbours(unit, "-E", top, "-f", base, base=content)
            self.assert_clean(top)
            self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, self.path("by-qemu.raw"))
            got = interop.read_file(self.path("by-qemu.raw"))
            self.assertTrue(got == expected, f"unit {unit}: QEMU reads other bytes")
        direct = self.data_file("direct.img", 4 * MIB, holes=False)
        self.neighbours(700, "--source", f"file:{direct}?direct=1", base=interop.read_file(direct))

    def test_kill_loses_nothing_that_was_flushed(self):
        top = self.path("top.qcow2")
        layers = ["-s", "16M", "-E", top]
        server = self.serve(*layers)
        expected = self.load(server.uri, 300)  # ends with a flush on every connection
        h = connect(server.uri)
        for i in range(64):  # never flushed: may be there or not
            h.pwrite(b"\xee" * 4096, 8 * MIB + i * 65536)
        server.kill()
        self.assertIn(self.run_any("qemu-img", "check", top).returncode, (0, 3), "more than leaks")
        server = self.serve(*layers)
        h = connect(server.uri)
        for start in range(0, len(expected), SECTOR):
            got, old = bytes(h.pread(SECTOR, start)), expected[start:start + SECTOR]
            late = start >= 8 * MIB and start % 65536 < 4096 and start < 12 * MIB
            self.assertTrue(got == old or late and got == b"\xee" * SECTOR, f"flushed data at {start} is gone")
        h.shutdown()
        self.assertEqual(server.stop(), 0)
        self.assert_clean(top)

    def test_clients_come_and_go_while_others_work(self):
        server = self.serve("-s", "16M", "-E", self.path("top.qcow2"))
        stay = connect(server.uri)
        stay.pwrite(b"s" * 4096, 0)
        for turn in range(100):
            h = connect(server.uri)
            buffer = self.nbd.Buffer(65536)
            for i in range(turn % 8):
                h.aio_pread(buffer, i * 65536)
            if turn % 2:
                h.shutdown()
            del h  # the odd ones vanish with requests in flight
            self.assertEqual(stay.pread(4096, 0), b"s" * 4096)
        stay.shutdown()
        status = json.loads(self.run_ok("nbdinfo", "--json", server.uri).stdout)
        self.assertEqual(status["exports"][0]["export-size"], 16 * MIB)
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    interop.main()
