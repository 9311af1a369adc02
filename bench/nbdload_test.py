# SPDX-License-Identifier: MIT
"""The load client against servers that others wrote: what it counts and verifies must be true."""
import json
import os
import pathlib

import testing

BENCH = pathlib.Path(__file__).resolve().parent
NBDLOAD = os.path.join(os.environ["LBD_BUILD_DIR"], "bin", "nbdload")


class Nbdload(testing.Case):
    def setUp(self):
        super().setUp()
        if not os.access(NBDLOAD, os.X_OK):
            self.skipTest("nbdload is not built")

    def nbdkit(self, *args):
        testing.require("nbdkit")
        socket = self.path("nbdkit.sock")
        self.start(["nbdkit", "-f", "-U", socket, *args], ready=lambda: testing.accepts(socket))
        return ["--unix", socket]

    def load(self, *args):
        return json.loads(self.run_ok(NBDLOAD, *args).stdout)

    def test_2000_verified_operations(self):
        where = self.nbdkit("memory", "16M")
        filled = self.load(*where, "--fill", "--flush", "--verify")
        self.assertEqual(filled["writes"], 16)
        mixed = self.load(*where, "--verify", "--ops", "2000", "--read-percent", "50", "-c", "2",
                          "--stride", "6000", "--block", "3584")
        self.assertEqual(mixed["ops"], 2000)
        self.assertEqual(mixed["reads"] + mixed["writes"], 2000)
        self.assertGreater(min(mixed["reads"], mixed["writes"]), 700)
        self.assertEqual((mixed["errors"], mixed["mismatches"]), (0, 0))
        self.assertEqual(self.load(*where, "--verify", "-n", "2000", "-b", "128K")["mismatches"], 0)

    def test_structured_replies_over_tcp(self):
        testing.require("nbdkit")
        port = testing.free_port()
        self.start(["nbdkit", "-f", "-i", "127.0.0.1", "-p", port, "memory", "8M"],
                   ready=lambda: testing.accepts(("127.0.0.1", port)))
        where = ["--tcp", f"127.0.0.1:{port}", "--structured", "--verify"]
        self.load(*where, "--fill")
        self.assertEqual(self.load(*where, "-n", "2000")["mismatches"], 0)

    def test_structured_replies_with_holes(self):
        testing.require("qemu-nbd", "qemu-img")
        image, socket = self.path("sparse.qcow2"), self.path("qemu.sock")
        self.run_ok("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
        self.start(["qemu-nbd", "-t", "-e", "0", "-k", socket, "-f", "qcow2", image],
                   ready=lambda: testing.accepts(socket))
        where = ["--unix", socket, "--structured"]
        self.load(*where, "--verify", "--write", "--sequential", "--area", "1M", "-n", "256")
        self.assertEqual(self.load(*where, "--area", "1M", "--verify", "-n", "500")["ops"], 500)
        self.assertEqual(self.load(*where, "-n", "500", "-b", "96K")["ops"], 500)

    def test_wrong_bytes_are_found(self):
        where = self.nbdkit("memory", "4M")
        self.load(*where, "--fill", "--verify", "--seed", "7")
        done = self.run_fail(NBDLOAD, *where, "--verify", "--seed", "8", "-n", "100")
        self.assertEqual(json.loads(done.stdout)["mismatches"], 100)

    def test_one_wrong_byte_is_found(self):
        image = self.path("disk.raw")
        pathlib.Path(image).write_bytes(bytes(1 << 20))
        where = self.nbdkit("file", image)
        self.load(*where, "--fill", "--flush", "--verify")
        with open(image, "r+b") as f:
            f.seek(777777)
            byte = f.read(1)[0]
            f.seek(777777)
            f.write(bytes([byte ^ 1]))
        once = ["--verify", "--once", "--block", "4096"]
        done = json.loads(self.run_fail(NBDLOAD, *where, *once).stdout)
        self.assertEqual((done["ops"], done["mismatches"]), (256, 1))

    def test_errors_are_counted(self):
        where = self.nbdkit("--filter=error", "memory", "4M", "error-pread-rate=100%")
        done = json.loads(self.run_fail(NBDLOAD, *where, "-n", "100").stdout)
        self.assertEqual((done["ops"], done["errors"]), (100, 100))

    def test_once_touches_every_place_once(self):
        image = self.path("disk.raw")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        where = self.nbdkit("file", image)
        done = self.load(*where, "--write", "--once", "--stride", "64K", "-b", "4K")
        self.assertEqual(done["writes"], 16)
        data = pathlib.Path(image).read_bytes()
        written = [i for i in range(256) if any(data[i * 4096:(i + 1) * 4096])]
        self.assertEqual(written, list(range(0, 256, 16)))

    def test_server_time_is_told(self):
        testing.require("nbdkit")
        socket = self.path("s.sock")
        server = self.start(["nbdkit", "-f", "-U", socket, "memory", "4M"],
                            ready=lambda: testing.accepts(socket))
        done = self.load("--unix", socket, "-s", "0.3", "-p", server.pid)
        self.assertGreater(done["server_cpu_us_per_op"], 0.1)
        self.assertLess(done["server_cpu_us_per_op"] * done["ops"], 2 * 1e6 * os.cpu_count())
        self.assertLessEqual(done["latency_us"]["p50"], done["latency_us"]["p99"])

    def test_nobody_there(self):
        self.assertIn("connect", self.run_fail(NBDLOAD, "-u", self.path("none")).stderr)


class Run(testing.Case):
    def test_one_row_of_the_comparison(self):
        testing.require("nbdkit", "taskset")
        if not os.access(NBDLOAD, os.X_OK):
            self.skipTest("nbdload is not built")
        figures = self.path("figures.json")
        done = self.run_ok(BENCH / "run", "--quick", "--seconds", "0.1", "--size", "8", "--retries",
                           "0", "--rows", "^memory/unix/randread-d32/nbdload$", "--unpinned",
                           "--servers", "nbdkit", "--nbdload", NBDLOAD, "--json", figures)
        self.assertIn("| randread-d32 | nbdload |", done.stdout)
        (row,) = json.loads(pathlib.Path(figures).read_text())["rows"]
        self.assertGreater(row["servers"]["nbdkit-memory"]["ops_per_s"], 1000)


if __name__ == "__main__":
    testing.main()
