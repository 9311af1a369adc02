#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Logs of log-writes, replayed: every flush gives the state that a plain model had then."""

import hashlib
import json
import random
import struct
import subprocess

import testing
from daemon_test import Daemon

MIB = 1 << 20
SIZE = MIB
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def log_of(*entries, sector=512, count=None, magic=0x6a736677736872):
    """A log as the format's description has it; entries are (first sector, sectors, flags, text or data)."""
    out = struct.pack("<QQQI", magic, 1, len(entries) if count is None else count, sector).ljust(sector, b"\0")
    for first, sectors, flags, content in entries:
        text = content if flags & MARK else b""
        out += (struct.pack("<QQQQ", first, sectors, flags, len(text)) + text).ljust(sector, b"\0")
        out += b"" if flags & (MARK | DISCARD) else content
    return out + bytes(sector)


class ReplayLog(Daemon):
    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def replay(self, *words, log="log.img", onto="copy.img"):
        return self.ok("replay-log", "--log", log, *(("--replay", onto) if onto else ()), *words)

    def record(self):
        """A device's life of random requests: what it held at each flush and at the mark "half", and a FUA write."""
        nbd = testing.require_module("nbd")
        daemon = self.start_daemon()
        for name, size in (("data.img", SIZE), ("log.img", 32 * MIB), ("copy.img", SIZE)):
            self.write(name, bytes(size))
        self.ok("device", "create", "d", "--table", f"0 {SIZE // 512} log-writes data.img log.img")
        self.ok("export", "d", "--nbd", f"unix:{self.path('d.sock')}")
        h = nbd.NBD()
        h.connect_uri(f"nbd+unix:///?socket={self.path('d.sock')}")
        draw = random.Random(7)
        model, states, half, fua = bytearray(SIZE), [], b"", None
        for turn in range(12):
            for _ in range(6):
                at, n = 512 * draw.randrange(SIZE // 512 - 200), 512 * draw.randrange(1, 200)
                kind = draw.randrange(10)
                data = bytes(n) if kind < 3 else draw.randbytes(n)
                if kind == 0:
                    at, n = at & -4096, 4096 * (n // 4096)
                    data = bytes(n)
                    if n:
                        h.trim(n, at)
                elif kind < 3:
                    h.zero(n, at)
                else:
                    h.pwrite(data, at, nbd.CMD_FLAG_FUA if kind == 3 else 0)
                model[at:at + len(data)] = data
                if kind == 3 and not fua:
                    fua = (at, data)
            h.flush()
            states.append(bytes(model))
            if turn == 5:
                self.ok("device", "message", "d", "0", "mark", "half")
                half = bytes(model)
        h.shutdown()
        busy = self.fails("replay-log", "--log", "log.img")
        self.assertIn("log.img", busy)
        self.ok("export", "d", "--remove")
        self.ok("device", "remove", "d")
        self.assertEqual(daemon.stop(), 0)
        return states, half, fua

    def test_every_flush_and_mark_is_a_state_that_was(self):
        states, half, (fua_at, fua_data) = self.record()
        self.assertEqual(self.read("data.img"), states[-1])
        listed = json.loads(self.replay("--json", onto=None))
        flushes = [e["entry"] for e in listed["entries"] if e["flush"]]
        self.assertGreaterEqual(len(flushes), len(states))
        states += states[-1:] * (len(flushes) - len(states))  # the export's own, at its end
        self.assertEqual(listed["entries"][-1]["mark"], "dm-log-writes-end")
        self.assertEqual(int(self.replay("--num-entries", onto=None)), len(listed["entries"]))
        following = 0
        for number, state in zip(flushes, states):
            self.assertEqual(int(self.replay("--find", "--next-flush", "--start-entry", following, onto=None)), number)
            done = json.loads(self.replay("--next-flush", "--start-entry", following, "--json"))
            self.assertEqual((done["first"], done["next"]), (following, number + 1))
            self.assertTrue(self.read("copy.img") == state, f"the flush of entry {number}")
            following = number + 1

        self.write("copy.img", bytes(SIZE))
        self.replay("--end-mark", "half")
        self.assertTrue(self.read("copy.img") == half)
        # From there on, with a check after each flush.
        self.replay("--start-mark", "half", "--fsck", "sha256sum <copy.img >>sums", "--check", "flush")
        sums = [line.split()[0] for line in self.read("sums").decode().splitlines()]
        self.assertEqual(sums, [hashlib.sha256(s).hexdigest() for s in states[6:]])
        failed = self.run_lbd("replay-log", "--log", "log.img", "--replay", "copy.img", "--fsck", "exit 4", "--check",
                              "flush")
        self.assertEqual(failed.returncode, 1)
        self.assertIn(f"after entry {flushes[0]} (flush) 'exit 4' ended with 4", failed.stderr)

        # A FUA write is durable by itself.
        number = int(self.replay("--find", "--next-fua", onto=None))
        entry = listed["entries"][number]
        self.assertEqual((entry["offset"], entry["length"]), (fua_at, len(fua_data)))
        self.write("copy.img", bytes(SIZE))
        self.replay("--next-fua")
        self.assertTrue(self.read("copy.img")[fua_at:fua_at + len(fua_data)] == fua_data)

    def test_logs_of_large_sectors(self):
        a, b = b"a" * 4096, b"b" * 8192
        self.write("log.img", log_of((1, 1, 0, a), (0, 0, FLUSH, b""), (2, 2, FUA | 16, b), (1, 1, DISCARD, b""),
                                     (0, 0, MARK, b"the end"), sector=4096))
        self.assertEqual(self.replay(onto=None).splitlines()[1:], [
            "       0             4096             4096  write",
            "       1                -                -  flush",
            "       2             8192             8192  write fua metadata",
            "       3             4096             4096  discard",
            "       4                -                -  mark the end"])
        self.write("copy.img", b"x" * 16384)
        self.assertEqual(self.replay("--limit", "3"), "3 entries replayed; the next is 3 of 5\n")
        self.assertEqual(self.read("copy.img"), b"x" * 4096 + a + b)
        self.assertEqual(self.replay("--start-entry", "3", "--no-discard"), "2 entries replayed; the next is 5 of 5\n")
        self.assertEqual(self.read("copy.img"), b"x" * 4096 + a + b)
        self.replay("--start-entry", "3", "--limit", "1")
        self.assertEqual(self.read("copy.img"), b"x" * 4096 + bytes(4096) + b)
        self.replay("--fsck", "echo now", "--check", "2")

    def test_no_entries(self):
        self.write("log.img", log_of())
        self.assertEqual(json.loads(self.replay("--json", onto=None)),
                         {"entries": [], "entries_in_log": 0, "sector_bytes": 512})
        self.assertEqual(len(self.replay(onto=None).splitlines()), 1)
        self.assertIn("'log.img' has no entry from 0 on",
                      self.fails("replay-log", "--log", "log.img", "--find", "--limit", "4"))
        self.write("log.img", log_of((0, 0, FLUSH, b""), (0, 0, MARK, b"m")))
        self.assertEqual(self.replay("--find", "--limit", "4", onto=None), "1\n")
        for begin in (("--start-entry", "2"), ("--start-mark", "m")):
            self.assertIn("'log.img' has no entry from 2 on",
                          self.fails("replay-log", "--log", "log.img", "--find", "--limit", "1", *begin))

    def test_marks_do_not_reach_the_terminal_as_they_are(self):
        self.write("log.img", log_of((0, 0, MARK, b"\x1b[2J\n\x7f\xc2\x9b1m\xff ok")))
        shown = self.replay(onto=None)
        self.assertTrue(shown.endswith("mark \\x1b[2J\\x0a\\x7f\\xc2\\x9b1m\\xff ok\n"), shown)
        shown = self.replay("--json", onto=None)
        self.assertEqual(json.loads(shown)["entries"][0]["mark"], "\x1b[2J\n\x7f\x9b1m\ufffd ok")
        self.assertTrue(all(c == "\n" or " " <= c <= "~" for c in shown), shown)

    def test_long_logs(self):
        count = 3000
        self.write("log.img", log_of(*[(n, 1, DISCARD, b"") for n in range(count)]))
        self.assertEqual([int(line.split()[0]) for line in self.replay(onto=None).splitlines()[1:]], [*range(count)])
        text = self.replay("--json", onto=None)
        listed = json.loads(text)
        self.assertEqual([e["offset"] for e in listed["entries"]], [*range(0, 512 * count, 512)])
        self.assertEqual(text, json.dumps(listed, indent=2, sort_keys=True) + "\n")
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([self.lbd, "replay-log", "--log", self.path("log.img")], stdout=full,
                                  stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (1, "lbd replay-log: cannot write to standard output\n"))

    def test_logs_that_are_none_or_damaged(self):
        self.write("copy.img", bytes(4096))

        def fails(*words):
            return self.fails("replay-log", "--log", "log.img", *words)

        self.write("log.img", bytes(4096))
        self.assertIn("'log.img' is no log of log-writes", fails())
        self.write("log.img", b"")
        self.assertIn("first sector", fails())
        self.write("log.img", log_of((0, 1, 0, b"a" * 512), (9, 1 << 60, 0, b""), (0, 0, MARK, b"m")))
        self.assertIn("entry 1 of 'log.img' is damaged", fails("--replay", "copy.img"))
        self.assertEqual(self.read("copy.img"), bytes(4096), "nothing is written when the end is not there")
        self.replay("--limit", "1")
        self.assertEqual(self.read("copy.img")[:512], b"a" * 512)
        self.write("log.img", log_of((0, 1, 0, b"a" * 512), count=9))
        self.assertIn("entry 2 of 'log.img' cannot be read", fails())
        self.write("log.img", log_of((7, 2, 0, b"a" * 1024), (0, 0, MARK, b"m")))
        self.assertIn("entry 0, at byte 3584 of 'copy.img': the device ends before", fails("--replay", "copy.img"))
        self.assertIn("has no mark 'x' from entry 0 on", fails("--end-mark", "x"))
        self.assertIn("has no mark 'x' from entry 0 on", fails("--start-mark", "x"))
        self.assertIn("has no flush or FUA write from entry 1 on",
                      fails("--start-entry", "1", "--next-flush", "--next-fua"))
        self.assertIn("has no entry 3, only 2", fails("--start-entry", "3"))
        self.assertIn("no-such", fails("--replay", "no-such"))


if __name__ == "__main__":
    testing.main()
