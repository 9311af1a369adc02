# SPDX-License-Identifier: MIT
"""A full file system: ENOSPC reaches the client as such, and every layer stays consistent."""

import os
import resource

import interop
import testing
from interop import MIB


class NoSpace(interop.Case):
    def setUp(self):
        super().setUp()
        self.nbd = testing.require_module("nbd")
        testing.require("qemu-img")

    def fill(self, uri):
        """Writes until ENOSPC; returns {offset: byte} of what was answered as written."""
        h = self.nbd.NBD()
        h.connect_uri(uri)
        written, refused = {}, 0
        for i in range(h.get_size() // 65536):
            try:
                h.pwrite(bytes([i % 255 + 1]) * 65536, i * 65536)
                written[i * 65536] = i % 255 + 1
            except self.nbd.Error as error:
                self.assertEqual(error.errnum, 28, error.string)
                refused += 1
                if refused > 20:
                    break
        self.assertGreater(refused, 0, "never full")
        for offset, byte in written.items():
            self.assertEqual(h.pread(65536, offset), bytes([byte]) * 65536)
        self.assertEqual(len(h.pread(65536, h.get_size() - 65536)), 65536)
        h.shutdown()
        return written

    def check_layers(self, top, layers, make_room):
        server = self.serve(*layers)
        written = self.fill(server.uri)
        make_room(server)
        h = self.nbd.NBD()
        h.connect_uri(server.uri)
        h.pwrite(b"r" * 65536, h.get_size() - 65536)  # there is room again
        h.flush()
        for offset, byte in written.items():
            self.assertEqual(h.pread(65536, offset), bytes([byte]) * 65536)
        h.shutdown()
        self.assertEqual(server.stop(), 0)
        self.assert_clean(top)
        server = self.serve(*layers)
        h = self.nbd.NBD()
        h.connect_uri(server.uri)
        for offset, byte in written.items():
            self.assertEqual(h.pread(65536, offset), bytes([byte]) * 65536)
        self.assertEqual(h.pread(65536, h.get_size() - 65536), b"r" * 65536)
        h.shutdown()
        self.assertEqual(server.stop(), 0)

    def test_change_file_on_a_full_tmpfs(self):
        mount = self.tmpfs("8M")
        ballast = os.path.join(mount, "ballast")
        with open(ballast, "wb") as file:
            file.write(bytes(2 * MIB))
        top = os.path.join(mount, "top.qcow2")
        self.check_layers(top, ["-s", "64M", "-E", top], lambda server: os.unlink(ballast))

    def test_change_file_over_data_on_a_full_tmpfs(self):
        base = self.data_file("base.img", 64 * MIB, holes=False)
        mount = self.tmpfs("8M")
        ballast = os.path.join(mount, "ballast")
        with open(ballast, "wb") as file:
            file.write(bytes(2 * MIB))
        top = os.path.join(mount, "top.qcow2")
        self.check_layers(top, ["-E", top, "-f", base], lambda server: os.unlink(ballast))

    def test_change_file_at_the_file_size_limit(self):
        top = self.path("top.qcow2")
        path = self.path("limited.sock")

        def limited():
            process = self.start(["prlimit", f"--fsize={6 * MIB}:unlimited", testing.lbd_binary(), "serve", "-u", path,
                                  "--socket", self.path("c"), "-s", "64M", "-E", top],
                                 ready=lambda: testing.accepts(path))
            return process

        testing.require("prlimit")
        process = limited()
        written = self.fill(f"nbd+unix:///?socket={path}")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        h = self.nbd.NBD()
        h.connect_uri(f"nbd+unix:///?socket={path}")
        h.pwrite(b"r" * 65536, 60 * MIB)
        h.flush()
        for offset, byte in written.items():
            self.assertEqual(h.pread(65536, offset), bytes([byte]) * 65536)
        h.shutdown()
        self.assertEqual(process.stop(), 0)
        self.assert_clean(top)

    def test_flat_sparse_file_on_a_full_tmpfs(self):
        mount = self.tmpfs("4M")
        flat = os.path.join(mount, "flat.img")
        with open(flat, "wb") as file:
            file.truncate(32 * MIB)
        server = self.serve("-f", flat)
        written = self.fill(server.uri)
        h = self.nbd.NBD()
        h.connect_uri(server.uri)
        first = min(written)
        h.trim(65536 * 8, first)  # gives room back
        h.pwrite(b"r" * 65536, 16 * MIB)
        h.shutdown()
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    interop.main()
