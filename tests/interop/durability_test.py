# SPDX-License-Identifier: MIT
"""Judge: strace. A flush or FUA write is answered only after the kernel was told to make the data durable."""

import re
import time

import interop
import testing
from interop import MIB
from load import connect

# The end of a call; where other threads' calls came between, it has a line of its own.
SYNC = re.compile(r"\b(fdatasync|fsync)(\(\d+\)| resumed>)")


class Durability(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("strace")
        testing.require_module("nbd")
        probe = self.run_any("strace", "-o", "/dev/null", "true")
        if probe.returncode != 0:
            self.skipTest("strace may not trace here")

    def traced(self, *layers):
        """A server on the thread pool (whose system calls strace sees), and a function that counts its syncs so far."""
        path, trace = self.path("s"), self.path("trace")
        self.start(["strace", "-D", "-f", "-o", trace, "-e", "trace=fdatasync,fsync,pwrite64,pwritev",
                    testing.lbd_binary(), "serve", "--io", "threads", "-u", path, "--socket", self.path("c"), *layers],
                   ready=lambda: testing.accepts(path))
        time.sleep(0.3)

        def syncs():
            with open(trace, encoding="utf-8", errors="replace") as file:
                return len(SYNC.findall(file.read()))

        return connect(f"nbd+unix:///?socket={path}"), syncs

    def check(self, *layers):
        h, syncs = self.traced(*layers)
        nbd = testing.require_module("nbd")
        for name, call in (("flush after a write", h.flush),
                           ("write with FUA", lambda: h.pwrite(b"f" * 4096, 65536, nbd.CMD_FLAG_FUA)),
                           ("write zeroes with FUA", lambda: h.zero(65536, 0, nbd.CMD_FLAG_FUA)),
                           ("FUA again in place", lambda: h.pwrite(b"g" * 4096, 65536, nbd.CMD_FLAG_FUA))):
            h.pwrite(b"w" * 4096, 0)
            before = syncs()
            call()
            self.assertGreater(syncs(), before, f"{name}: answered without a sync")
        before = syncs()
        for i in range(100):
            h.pwrite(b"n" * 4096, 65536 + i * 4096)
        self.assertLess(syncs() - before, 20, "plain writes are synced one by one")
        h.shutdown()

    def test_flat_file(self):
        self.check("-f", self.data_file("flat.img", 4 * MIB))

    def test_change_file(self):
        self.check("-s", "4M", "-E", self.path("top.qcow2"))

    def test_change_file_over_data(self):
        self.check("-E", self.path("top.qcow2"), "-f", self.data_file("base.img", 4 * MIB))

    def test_a_fua_write_to_a_place_written_before_survives_a_kill(self):
        """The place is in the top layer already, but what names it there is not durable yet: FUA must see to it."""
        nbd = testing.require_module("nbd")
        base, top, path = self.data_file("base.img", 4 * MIB), self.path("top.qcow2"), self.path("s")
        server = self.start([testing.lbd_binary(), "serve", "-u", path, "--socket", self.path("c"),
                             "-E", top, "-f", base], ready=lambda: testing.accepts(path))
        h = connect(f"nbd+unix:///?socket={path}")
        h.pwrite(b"a" * 4096, 65536)
        h.pwrite(b"F" * 4096, 65536, nbd.CMD_FLAG_FUA)
        server.kill()
        server.wait()
        self.run_ok("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x46 65536 4096", top)


if __name__ == "__main__":
    interop.main()
