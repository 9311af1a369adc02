# SPDX-License-Identifier: MIT
"""The server as a process: signals, pid file, readiness, sockets handed over, where it listens."""

import os
import pathlib
import signal
import socket
import stat
import sys
import time

import interop
import testing
from interop import MIB


class Process(interop.Case):
    def serve_command(self, *args):
        return [testing.lbd_binary(), "serve", "--socket", self.path("ctl"), *args]

    def test_signals_mean_a_graceful_end(self):
        testing.require("qemu-io", "qemu-img")
        for number in (signal.SIGTERM, signal.SIGINT):
            top = self.path(f"top{number}.qcow2")
            server = self.serve("-s", "16M", "-E", top)
            self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 3 1M 1M", server.uri)  # no flush by the client
            server.signal(number)
            self.assertEqual(server.wait(), 0)
            self.assertFalse(os.path.exists(server.socket), "the socket file is left behind")
            self.assertFalse(os.path.exists(server.control), "the management socket is left behind")
            self.assert_clean(top)
            self.run_ok("qemu-io", "-r", "-c", "read -P 3 1M 1M", top)

    def test_a_second_signal_does_no_harm(self):
        server = self.serve("--source", "mem:1M")
        server.signal(signal.SIGTERM)
        try:
            server.signal(signal.SIGTERM)
        except ProcessLookupError:
            pass
        self.assertIn(server.wait(), (0, -signal.SIGTERM))

    def test_a_signal_ends_a_start_that_waits(self):
        path = self.path("silent")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(path)
            silent.listen(1)
            process = self.start(self.serve_command("-u", self.path("s"), "-n", f"nbd+unix:///?socket={path}"))
            client, _ = silent.accept()
            with client:
                process.signal(signal.SIGTERM)
                self.assertEqual(process.wait(timeout_s=8), 0)  # the handshake would wait for 10 s
        self.assertFalse(os.path.exists(self.path("s")))

    def test_sigpipe_and_sighup_do_not_kill(self):
        server = self.serve("--source", "mem:1M")
        server.signal(signal.SIGPIPE)
        time.sleep(0.1)
        self.assertTrue(server.running(), "SIGPIPE ended the server")

    def test_pid_file_says_ready(self):
        pid_file, path = self.path("pid"), self.path("s")
        process = self.start(self.serve_command("-u", path, "--source", "mem:1M", "--pid-file", pid_file),
                             ready=lambda: os.path.exists(pid_file))
        testing.wait_until(lambda: pathlib.Path(pid_file).read_text(encoding="ascii").endswith("\n"),
                           "the pid file is written")
        self.assertEqual(int(pathlib.Path(pid_file).read_text(encoding="ascii")), process.pid)
        self.assertTrue(testing.accepts(path), "the pid file was there before the socket")
        self.assertEqual(process.stop(), 0)
        self.assertFalse(os.path.exists(pid_file), "the pid file is left behind")

    def test_sd_notify_ready_and_stopping(self):
        path = self.path("notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(10)
            process = self.start(self.serve_command("-u", self.path("s"), "--source", "mem:1M"),
                                 env=dict(os.environ, NOTIFY_SOCKET=path))
            self.assertIn(b"READY=1", notify.recv(4096).split(b"\n"))
            self.assertTrue(testing.accepts(self.path("s")), "READY=1 came before the socket")
            process.signal(signal.SIGTERM)
            self.assertIn(b"STOPPING=1", notify.recv(4096).split(b"\n"))
            self.assertEqual(process.wait(), 0)

    def test_read_only_writes_nothing(self):
        testing.require("qemu-io")
        flat = self.data_file("flat.img", MIB)
        os.chmod(flat, 0o444)
        before = interop.digest(flat)
        server = self.serve("-r", "-f", flat)
        self.run_fail("qemu-io", "-f", "raw", "-c", "write 0 512", server.uri)
        self.run_ok("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", server.uri)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(interop.digest(flat), before)

    def listening(self, pid):
        """TCP addresses on which a process listens, as ss shows them."""
        testing.require("ss")
        lines = self.run_ok("ss", "-Hltnp").stdout.splitlines()
        return sorted(line.split()[3] for line in lines if f"pid={pid}," in line)

    def test_nothing_listens_beyond_loopback(self):
        port, admin = testing.free_port(), testing.free_port()
        process = self.start(self.serve_command(f"-l{port}", f"-a{admin}", "--source", "mem:1M"),
                             ready=lambda: testing.accepts(("127.0.0.1", port)))
        addresses = self.listening(process.pid)
        self.assertTrue(addresses)
        for address in addresses:
            self.assertTrue(address.startswith(("127.0.0.1:", "[::1]:")), addresses)
        self.assertEqual({address.rsplit(":", 1)[1] for address in addresses}, {str(port), str(admin)})

    def test_the_default_is_localhost_10809(self):
        if testing.accepts(("127.0.0.1", 10809)):
            self.skipTest("port 10809 is taken")
        process = self.start(self.serve_command("--source", "mem:1M"),
                             ready=lambda: testing.accepts(("127.0.0.1", 10809)))
        self.assertTrue({"127.0.0.1:10809"} <= set(self.listening(process.pid)))
        self.assertEqual(self.run_ok("nbdinfo", "--size", "nbd://localhost").stdout.strip(), str(MIB))

    def test_a_unix_socket_left_by_a_dead_server_is_replaced(self):
        path = self.path("s")
        command = self.serve_command("-u", path, "--source", "mem:1M")
        self.start(command, ready=lambda: testing.accepts(path)).kill()
        self.assertTrue(stat.S_ISSOCK(os.stat(path).st_mode))
        # The kernel lets the dead server's listener answer a moment longer, so ask for more than that.
        pid_file = self.path("pid")
        process = self.start([*command, "--pid-file", pid_file], ready=lambda: os.path.exists(pid_file))
        self.assertTrue(testing.accepts(path))
        self.assertEqual(process.stop(), 0)

    def test_an_address_in_use_is_one_line(self):
        path, port = self.path("s"), testing.free_port()
        self.start(self.serve_command("-u", path, "-l", str(port), "--source", "mem:1M"),
                   ready=lambda: testing.accepts(path))
        self.lbd_fails("serve", "--socket", self.path("c2"), "-u", path, "--source", "mem:1M", names=[path],
                       timeout_s=20)
        self.lbd_fails("serve", "--socket", self.path("c2"), "-l", str(port), "--source", "mem:1M",
                       names=[str(port)], timeout_s=20)

    def test_what_is_no_socket_is_not_removed(self):
        path = self.path("precious")
        pathlib.Path(path).write_text("data", encoding="ascii")
        self.lbd_fails("serve", "--socket", self.path("c2"), "-u", path, "--source", "mem:1M", names=[path],
                       timeout_s=20)
        self.assertEqual(pathlib.Path(path).read_text(encoding="ascii"), "data")

    def test_one_client_on_standard_input(self):
        nbd = testing.require_module("nbd")
        h = nbd.NBD()
        h.connect_command(self.serve_command("--stdin", "--source", "mem:1M"))
        h.pwrite(b"x" * 4096, 8192)
        self.assertEqual(h.pread(4096, 8192), b"x" * 4096)
        h.shutdown()

    def test_socket_activation(self):
        nbd = testing.require_module("nbd")
        h = nbd.NBD()
        h.connect_systemd_socket_activation(self.serve_command("--source", "mem:1M"))
        h.pwrite(b"x" * 4096, 8192)
        self.assertEqual(h.pread(4096, 8192), b"x" * 4096)
        self.assertEqual(h.get_size(), MIB)
        h.shutdown()

    def test_thread_pool_serves_where_io_uring_is_not_used(self):
        testing.require("nbdcopy")
        source = self.data_file("source.img", 16 * MIB)
        server = self.serve("--io", "threads", "-s", "16M", "-E", self.path("top.qcow2"))
        self.run_ok("nbdcopy", "--connections=4", "--flush", source, server.uri)
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, source)
        self.assertEqual(server.stop(), 0)
        self.assert_clean(self.path("top.qcow2"))

    def test_thread_pool_takes_over_where_io_uring_is_refused(self):
        refuse = [sys.executable, "-B", str(testing.SOURCE_DIR / "tests/threads/without_io_uring.py")]
        path = self.path("s")
        words = self.serve_command("-u", path, "--source", "mem:16M")
        process = self.start([*refuse, *words], ready=lambda: testing.accepts(path))
        source = self.data_file("source.img", 16 * MIB)
        self.run_ok("nbdcopy", "--connections=4", "--flush", source, f"nbd+unix:///?socket={path}")
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", f"nbd+unix:///?socket={path}", source)
        self.assertEqual(process.stop(), 0)
        done = self.run_fail(*refuse, *words, "--io", "uring")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("io_uring", done.stderr)

    def test_the_two_server_example(self):
        """Words as in the documentation, with free ports."""
        testing.require("qemu-io", "nbdinfo")
        admin1, port1, admin2, port2 = (str(testing.free_port()) for _ in range(4))
        one, two = self.path("test.expandable"), self.path("test2.expandable")
        env = dict(os.environ, XDG_RUNTIME_DIR=str(self.dir))
        self.start([testing.lbd_binary(), "serve", f"-a{admin1}", f"-l{port1}", "-s", "1G", "-E", one],
                   ready=lambda: testing.accepts(("127.0.0.1", int(port1))), env=env)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "write -P 1 512M 1M",
                    f"nbd://localhost:{port1}")
        self.start([testing.lbd_binary(), "serve", f"-a{admin2}", f"-l{port2}", "-s", "1G", "-E", two, "-n",
                    f"localhost:{port1}"],
                   ready=lambda: testing.accepts(("127.0.0.1", int(port2))), env=env)
        self.run_ok("qemu-io", "-f", "raw", "-c", "read -P 1 512M 1M", "-c", "write -P 2 0 64k", "-c",
                    "read -P 2 0 64k",
                    "-c", "read -P 1 64k 960k", f"nbd://localhost:{port2}")
        self.run_ok("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 1M", f"nbd://localhost:{port1}")
        for admin in (admin2, admin1):
            with socket.create_connection(("127.0.0.1", int(admin)), timeout=10) as client:
                client.sendall(b"PING\n")
                self.assertEqual(client.recv(100).strip(), b"true")


if __name__ == "__main__":
    interop.main()
