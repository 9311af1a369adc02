# SPDX-License-Identifier: MIT
"""Surroundings that misbehave: files that shrink or vanish under the server, no more descriptors."""

import os
import socket
import threading
import time

import interop
import testing
from interop import MIB
from load import connect


class Robust(interop.Case):
    def setUp(self):
        super().setUp()
        self.nbd = testing.require_module("nbd")

    def truncate_under(self, path, *layers):
        """Reads all the time while the file shrinks to nothing and grows again; the server must live on."""
        server = self.serve(*layers)
        stop = threading.Event()
        wrong = []

        def read():
            h = connect(server.uri)
            while not stop.is_set():
                for offset in range(0, 8 * MIB, MIB):
                    try:
                        h.pread(MIB if offset % (2 * MIB) else 4096, offset)
                    except self.nbd.Error as error:
                        if error.errnum != 5:
                            wrong.append(error.string)
                            return

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for size in (5 * MIB, 3 * MIB + 100, 0, 8 * MIB, 0, 8 * MIB):
            time.sleep(0.15)
            os.truncate(path, size)
        time.sleep(0.2)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertTrue(server.running(), "the server died of a truncated file:\n" + server.output())
        self.assertEqual(wrong, [])
        h = connect(server.uri)
        self.assertEqual(len(h.pread(4096, 0)), 4096)
        h.shutdown()
        server.stop()

    def test_a_truncated_flat_file(self):
        flat = self.data_file("flat.img", 8 * MIB, holes=False)
        self.truncate_under(flat, "-f", flat)
        self.truncate_under(flat, "-r", "-f", flat)

    def test_a_truncated_flat_file_on_tmpfs(self):
        if not os.access("/dev/shm", os.W_OK):
            self.skipTest("no /dev/shm")
        flat = f"/dev/shm/lbd-test-{os.getpid()}.img"
        self.addCleanup(lambda: os.path.exists(flat) and os.unlink(flat))
        self.run_ok("cp", self.data_file("flat.img", 8 * MIB, holes=False), flat)
        self.truncate_under(flat, "-f", flat)

    def test_a_truncated_base_below_a_change_file(self):
        base = self.data_file("base.img", 8 * MIB, holes=False)
        self.truncate_under(base, "-E", self.path("top.qcow2"), "-f", base)

    def test_deleted_files_are_kept_by_their_server(self):
        base, top = self.data_file("base.img", 8 * MIB, holes=False), self.path("top.qcow2")
        content = interop.read_file(base)
        server = self.serve("-E", top, "-f", base)
        os.unlink(base)
        os.unlink(top)
        h = connect(server.uri)
        h.pwrite(b"x" * 65536, MIB)
        h.flush()
        self.assertEqual(h.pread(65536, MIB), b"x" * 65536)
        self.assertEqual(h.pread(65536, 0), content[:65536])
        h.shutdown()
        self.assertEqual(server.stop(), 0)

    def test_no_more_descriptors(self):
        testing.require("prlimit")
        path = self.path("s")
        process = self.start(["prlimit", "--nofile=48:48", testing.lbd_binary(), "serve", "-u", path, "--socket",
                              self.path("c"), "--source", "mem:1M"], ready=lambda: testing.accepts(path))
        clients = []
        for _ in range(100):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(0.2)
            try:
                client.connect(path)
            except OSError:
                pass
            clients.append(client)
        time.sleep(0.5)
        self.assertTrue(process.running(), "the server died without descriptors:\n" + process.output())
        for client in clients:
            client.close()
        uri = f"nbd+unix:///?socket={path}"
        testing.wait_until(lambda: self.run_any("nbdinfo", "--size", uri).returncode == 0, "it serves again")
        self.assertEqual(process.stop(), 0)

    def test_a_busy_server_without_descriptors_uses_no_cpu(self):
        testing.require("prlimit")
        path = self.path("s")
        process = self.start(["prlimit", "--nofile=48:48", testing.lbd_binary(), "serve", "-u", path, "--socket",
                              self.path("c"), "--source", "mem:1M"], ready=lambda: testing.accepts(path))
        clients = [socket.socket(socket.AF_UNIX) for _ in range(80)]
        for client in clients:
            client.setblocking(False)
            try:
                client.connect(path)
            except OSError:
                pass
        time.sleep(0.5)

        def ticks():
            with open(f"/proc/{process.pid}/stat", encoding="ascii") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        start = ticks()
        time.sleep(1)
        used = (ticks() - start) / os.sysconf("SC_CLK_TCK")
        for client in clients:
            client.close()
        self.assertLess(used, 0.5, "seconds of CPU in one second of refusing clients")

    def test_an_idle_server_uses_no_cpu(self):
        server = self.serve("-s", "1M", "-E", self.path("top.qcow2"))
        h = connect(server.uri)
        h.pwrite(bytes(4096), 0)
        time.sleep(0.5)
        with open(f"/proc/{server.pid}/schedstat", encoding="ascii") as stat:
            start = int(stat.read().split()[0])
        time.sleep(1)
        with open(f"/proc/{server.pid}/schedstat", encoding="ascii") as stat:
            used_ms = (int(stat.read().split()[0]) - start) / 1e6
        self.assertLess(used_ms, 50, "milliseconds of CPU in one idle second")
        h.shutdown()


if __name__ == "__main__":
    interop.main()
