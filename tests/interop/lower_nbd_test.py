# SPDX-License-Identifier: MIT
"""LBD as a client: other NBD servers as a layer below, good ones and bad ones."""

import concurrent.futures
import json
import os
import pathlib
import socket
import threading
import time

import interop
import testing
import toy_server
from interop import MIB
from toy_server import READ, WRITE


class Servers(interop.Case):
    """nbdkit, qemu-nbd and nbd-server below a change file."""

    def setUp(self):
        super().setUp()
        testing.require("qemu-img", "qemu-io", "nbdcopy")
        self.base = self.data_file("base.img", 16 * MIB)
        self.before = interop.digest(self.base)

    def check_overlay(self, lower_uri):
        """Reads the lower content through an overlay, writes to it, restarts it; the lower one must not change."""
        top = self.path("top.qcow2")
        server = self.serve("-E", top, "-n", lower_uri)
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, self.base)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 4608 5k", "-c", "write -z 2M 1M", "-c", "flush",
                    server.uri)
        content = self.device_bytes(server.uri)
        self.assertEqual(content[4608:9728], b"\1" * 5120)
        self.assertEqual(content[2 * MIB:3 * MIB], bytes(MIB))
        self.assertEqual(content[:4608], interop.read_file(self.base)[:4608])
        self.assertEqual(server.stop(), 0)
        server = self.serve("-E", top, "-n", lower_uri)
        self.assertEqual(self.device_bytes(server.uri), content, "content differs after a restart")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(interop.digest(self.base), self.before, "the lower server's file changed")
        self.assert_clean(top)
        return content

    def lower(self, *argv):
        """Starts a server on the socket "lower" and returns its URI."""
        path = self.path("lower")
        self.start([word.format(socket=path) for word in argv], ready=lambda: testing.accepts(path))
        return f"nbd+unix:///?socket={path}"

    def test_nbdkit(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "-U", "{socket}", "file", self.base))

    def test_nbdkit_oldstyle(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "-o", "-U", "{socket}", "file", self.base))

    def test_nbdkit_without_structured_replies(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "--no-sr", "-U", "{socket}", "file", self.base))

    def test_nbdkit_that_is_slow_and_serial(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "-t", "1", "-U", "{socket}", "--filter=delay",
                                      "--filter=noparallel",
                                      "file", self.base, "rdelay=2ms", "serialize=requests"))

    def test_nbdkit_that_insists_on_4k_blocks(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "-U", "{socket}", "--filter=blocksize-policy", "file", self.base,
                                      "blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=1M",
                                      "blocksize-error-policy=error"))

    def test_nbdkit_that_refuses_block_status_and_zeroes(self):
        testing.require("nbdkit")
        self.check_overlay(self.lower("nbdkit", "-f", "-U", "{socket}", "--filter=noextents", "--filter=nozero",
                                      "file", self.base))

    def test_qemu_nbd(self):
        uri = self.lower("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-r", "-k", "{socket}", self.base)
        content = self.check_overlay(uri)
        info = self.image_info(self.path("top.qcow2"))
        self.assertIn("nbd", info["backing-filename"])
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path("top.qcow2"), self.path("by-qemu.raw"))
        self.assertEqual(interop.read_file(self.path("by-qemu.raw")), content, "QEMU reads other bytes from the chain")

    def test_qemu_nbd_export_name_and_tcp(self):
        port = testing.free_port()
        self.start(["qemu-nbd", "-t", "-e", "8", "-f", "raw", "-r", "-x", "disk one", "-b", "127.0.0.1", "-p",
                    str(port),
                    self.base], ready=lambda: testing.accepts(("127.0.0.1", port)))
        self.check_overlay(f"nbd://127.0.0.1:{port}/disk%20one")

    def test_qemu_nbd_holes_pass_up(self):
        uri = self.lower("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-r", "-k", "{socket}", self.base)
        server = self.serve("-E", self.path("top.qcow2"), "-n", uri)
        extents = json.loads(self.run_ok("nbdinfo", "--map", "--json", server.uri).stdout)
        hole = next(e for e in extents if e["offset"] <= MIB < e["offset"] + e["length"])
        self.assertEqual(hole["type"] & 2, 2, "a hole of the lower server is not told")

    def test_nbd_server(self):
        testing.require("nbd-server")
        port, config, pid_file = testing.free_port(), self.path("conf"), self.path("pid")
        pathlib.Path(config).write_text(f"[generic]\nlistenaddr = 127.0.0.1\nport = {port}\n[disk]\n"
                                        f"exportname = {self.base}\nreadonly = true\n", encoding="ascii")
        self.run_ok("nbd-server", "-C", config, "-p", pid_file)
        testing.wait_until(lambda: testing.accepts(("127.0.0.1", port)), "nbd-server accepts")
        pid = int(pathlib.Path(pid_file).read_text(encoding="ascii"))
        self.addCleanup(os.kill, pid, 15)
        self.check_overlay(f"nbd://127.0.0.1:{port}/disk")

    def test_lbd_below_lbd_by_host_and_port(self):
        port = testing.free_port()
        self.start([testing.lbd_binary(), "serve", "--socket", self.path("c"), f"-l{port}", "-r", "-f", self.base],
                   ready=lambda: testing.accepts(("127.0.0.1", port)))
        self.check_overlay(f"localhost:{port}")

    def test_a_relative_socket_is_recorded_so_that_qemu_finds_it_from_anywhere(self):
        uri = self.lower("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-r", "-k", "{socket}", self.base)
        top = self.path("top.qcow2")
        words = "serve -u s --socket c -E top.qcow2 -n 'nbd+unix:///?socket=lower'"
        process = self.start(["sh", "-c", f"cd {self.dir} && exec {testing.lbd_binary()} {words}"],
                             ready=lambda: testing.accepts(self.path("s")))
        self.assertEqual(process.stop(), 0)
        self.assertEqual(self.image_info(top)["backing-filename"], uri)
        self.run_ok("qemu-img", "compare", "-f", "qcow2", "-F", "raw", top, self.base)

    def test_writes_pass_through_to_a_lone_nbd_layer(self):
        uri = self.lower("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", "{socket}", self.base)
        server = self.serve("-n", uri)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 9 1M 64k", "-c", "write -z 64k 4k", "-c", "discard 8M 1M",
                    "-c", "write -f -P 10 2M 512", "-c", "flush", server.uri)
        self.assertEqual(server.stop(), 0)
        self.run_ok("qemu-io", "-f", "raw", "-c", "read -P 9 1M 64k", "-c", "read -P 0 64k 4k", "-c",
                    "read -P 10 2M 512", uri)

    def test_nobody_there_is_one_line(self):
        done = self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"), "-E", self.path("top.qcow2"),
                              "-n", f"nbd+unix:///?socket={self.path('nothing')}", names=[self.path("nothing")])
        self.assertNotEqual(done.returncode, 0)

    def test_unknown_export_is_one_line(self):
        self.lower("qemu-nbd", "-t", "-e", "8", "-f", "raw", "-r", "-x", "disk", "-k", "{socket}", self.base)
        self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"),
                       "-n", f"nbd+unix:///nodisk?socket={self.path('lower')}", names=["nodisk"])


class Faults(interop.Case):
    """Servers that stall, vanish and come back."""

    def setUp(self):
        super().setUp()
        self.nbd = testing.require_module("nbd")

    def connect(self, server):
        handle = self.nbd.NBD()
        handle.connect_uri(server.uri)
        return handle

    def test_reads_survive_a_restart_of_the_lower_server(self):
        toy = toy_server.Toy(self.path("toy"))
        toy.data[:] = interop.pattern(1, MIB)
        server = self.serve("-n", toy.uri)
        h = self.connect(server)
        for turn in range(5):
            self.assertEqual(h.pread(4096, turn * 4096), toy.data[turn * 4096:turn * 4096 + 4096])
            toy.drop_all(and_listener=True)
            threading.Timer(0.3, toy.listen).start()
            time.sleep(0.05 * turn)
        self.assertEqual(h.pread(MIB, 0), toy.data)

    def test_requests_in_flight_survive_a_lost_connection(self):
        class Dropping(toy_server.Toy):
            def before(self, number, cmd, offset, length):
                if number in (10, 30, 31):
                    raise toy_server.Hangup

        toy = Dropping(self.path("toy"))
        server = self.serve("-n", toy.uri)
        h = self.connect(server)
        for i in range(64):
            data = interop.pattern(i, 4096)
            h.pwrite(data, i * 4096, self.nbd.CMD_FLAG_FUA)  # nothing unflushed is lost with a connection
            self.assertEqual(h.pread(4096, i * 4096), data)
        h.flush()

    def test_a_flush_does_not_pretend_after_unflushed_writes_were_lost(self):
        toy = toy_server.Toy(self.path("toy"))
        h = self.connect(self.serve("-n", toy.uri))
        h.pwrite(b"x" * 4096, 0)
        toy.drop_all(and_listener=True)
        toy.data[:4096] = bytes(4096)  # a server that crashed with a volatile cache
        toy.listen()
        with self.assertRaises(self.nbd.Error) as caught:
            h.flush()
        self.assertEqual(caught.exception.errnum, 5)

    def test_a_server_that_is_gone_is_an_error_in_bounded_time(self):
        toy = toy_server.Toy(self.path("toy"))
        server = self.serve("-n", toy.uri)
        h = self.connect(server)
        h.pread(512, 0)
        toy.drop_all(and_listener=True)
        start = time.monotonic()
        with self.assertRaises(self.nbd.Error) as caught:
            h.pread(512, 0)
        self.assertEqual(caught.exception.errnum, 5, "EIO")
        self.assertLess(time.monotonic() - start, 60)
        self.assertIn(server.stop(), (0, 1))

    def test_errors_of_the_lower_server_pass_up(self):
        class Failing(toy_server.Toy):
            def error(self, cmd, offset, length):
                return {(READ, 4096): 5, (WRITE, 8192): 28, (WRITE, 12288): 1}.get((cmd, offset), 0)

        toy = Failing(self.path("toy"))
        server = self.serve("-n", toy.uri)
        h = self.connect(server)
        for call, expected in ((lambda: h.pread(512, 4096), 5), (lambda: h.pwrite(bytes(512), 8192), 28),
                               (lambda: h.pwrite(bytes(512), 12288), 1)):
            with self.assertRaises(self.nbd.Error) as caught:
                call()
            self.assertEqual(caught.exception.errnum, expected)
        h.pread(512, 0)

    def test_a_stalled_server_does_not_hold_up_what_is_above(self):
        release = threading.Event()

        class Stalling(toy_server.Toy):
            def before(self, number, cmd, offset, length):
                if cmd == READ and offset >= 512 * 1024:
                    release.wait(10)

        toy = Stalling(self.path("toy"))
        server = self.serve("-E", self.path("top.qcow2"), "-n", toy.uri)
        stuck, free = self.connect(server), self.connect(server)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(stuck.pread, 4096, 600 * 1024)
            try:
                time.sleep(0.2)
                start = time.monotonic()
                for i in range(20):
                    free.pwrite(bytes([i]) * 65536, i % 4 * 65536)
                    self.assertEqual(free.pread(512, i % 4 * 65536), bytes([i]) * 512)
                self.assertLess(time.monotonic() - start, 5, "others had to wait")
                self.assertFalse(waiting.done())
            finally:
                release.set()
            waiting.result(10)

    def check_fencing(self, connect_early):
        """The old client's write hangs in the lower server; a newer write to the same place must win."""
        release = threading.Event()

        class Holding(toy_server.Toy):
            held = False

            def before(self, number, cmd, offset, length):
                with self.lock:
                    first, self.held = cmd == WRITE and not self.held, self.held or cmd == WRITE
                if first:
                    release.wait(3)

        toy = Holding(self.path("toy"))
        server = self.serve("-n", toy.uri)
        old = self.connect(server)
        new = self.connect(server) if connect_early else None
        old.aio_pwrite(self.nbd.Buffer.from_bytearray(bytearray(b"old!" * 1024)), 0)
        testing.wait_until(lambda: toy.held, "the old write reaches the lower server")
        del old
        threading.Timer(0.5, release.set).start()
        time.sleep(0.1)
        new = new or self.connect(server)
        new.pwrite(b"new!" * 1024, 0)
        release.set()
        time.sleep(0.3)
        self.assertEqual(bytes(new.pread(4096, 0)), b"new!" * 1024)
        self.assertEqual(bytes(toy.data[:4096]), b"new!" * 1024)

    def test_a_dead_clients_write_never_overtakes_that_of_a_new_connection(self):
        self.check_fencing(connect_early=False)

    def test_a_dead_clients_write_never_overtakes_a_newer_one_on_an_open_connection(self):
        self.check_fencing(connect_early=True)

    def test_liars_are_refused_and_kill_nobody(self):
        """A lower server that answers nonsense: an error line or I/O errors, never a crash."""
        nonsense = [b"", b"\0" * 18, b"NBDMAGIC", b"NBDMAGICIHAVEOPT\0\3" + b"\xff" * 64, b"x" * 4096]
        for number, greeting in enumerate(nonsense):
            path = self.path(f"liar{number}")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(8)

            def lie(listener=listener, greeting=greeting):
                while True:
                    try:
                        s, _ = listener.accept()
                    except OSError:
                        return
                    s.sendall(greeting)
                    s.close()

            threading.Thread(target=lie, daemon=True).start()
            self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"),
                           "-n", f"nbd+unix:///?socket={path}", names=[path], timeout_s=60)
            listener.close()


if __name__ == "__main__":
    interop.main()
