# SPDX-License-Identifier: MIT
"""Judge: nbdinfo."""

import json

import interop
import testing
from interop import MIB


class Nbdinfo(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("nbdinfo", "qemu-io")

    def json(self, *args):
        return json.loads(self.run_ok("nbdinfo", "--json", *args).stdout)

    def test_list_tells_every_feature(self):
        server = self.serve("-s", "64M", "-E", self.path("top.qcow2"), name="disk1")
        for arguments in (["--list", f"nbd+unix:///?socket={server.socket}"], [server.uri]):
            answer = self.json(*arguments)
            self.assertEqual(answer["protocol"], "newstyle-fixed")
            self.assertTrue(answer["structured"])
            self.assertEqual(len(answer["exports"]), 1)
            export = answer["exports"][0]
            self.assertEqual(export["export-name"], "disk1")
            self.assertEqual(export["export-size"], 64 * MIB)
            self.assertIn("base:allocation", export["contexts"])
            for feature in ("cache", "df", "flush", "fua", "multi_conn", "trim", "zero"):
                self.assertTrue(export["can_" + feature], feature)
            self.assertFalse(export["is_read_only"])
            self.assertFalse(export["is_rotational"])
            self.assertLessEqual(export["block_size_minimum"], 512)
            self.assertGreaterEqual(export["block_size_preferred"], 4096)
            self.assertGreaterEqual(export["block_size_maximum"], 32 * MIB)

    def test_size_and_questions(self):
        server = self.serve("-s", "1000000K", "-E", self.path("top.qcow2"))
        self.assertEqual(self.run_ok("nbdinfo", "--size", server.uri).stdout.strip(), "1024000000")
        self.run_ok("nbdinfo", "--can", "multi-conn", server.uri)
        self.run_ok("nbdinfo", "--can", "structured-reply", server.uri)
        self.assertEqual(self.run_any("nbdinfo", "--is", "read-only", server.uri).returncode, 2)

    def test_read_only_is_told(self):
        self.data_file("flat.img", 4 * MIB)
        server = self.serve("-r", "-f", self.path("flat.img"))
        self.run_ok("nbdinfo", "--is", "read-only", server.uri)

    def test_map_shows_what_was_written(self):
        server = self.serve("-s", "64M", "-E", self.path("top.qcow2"))
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 7 1M 1M", "-c", "write -P 8 40M 64k", server.uri)
        extents = json.loads(self.run_ok("nbdinfo", "--map", "--json", server.uri).stdout)
        self.assertEqual(sum(e["length"] for e in extents), 64 * MIB)
        data = [(e["offset"], e["length"]) for e in extents if e["type"] == 0]
        self.assertEqual(data, [(MIB, MIB), (40 * MIB, 65536)])
        self.assertEqual({e["type"] for e in extents if e["type"]}, {3}, "the rest is hole and zero")

    def test_map_looks_through_the_layers(self):
        flat = self.data_file("flat.img", 8 * MIB)  # data, hole, data, zeros, ...
        server = self.serve("-E", self.path("top.qcow2"), "-f", flat)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "write -z 2M 64k", server.uri)
        extents = json.loads(self.run_ok("nbdinfo", "--map", "--json", server.uri).stdout)

        def kind(offset):
            return next(e["type"] for e in extents if e["offset"] <= offset < e["offset"] + e["length"])

        self.assertEqual(sum(e["length"] for e in extents), 8 * MIB)
        self.assertEqual(kind(0), 0, "data of the lower layer")
        self.assertEqual(kind(MIB), 0, "data of the upper layer over a hole")
        self.assertEqual(kind(MIB + 65536) & 2, 2, "hole of the lower layer")
        self.assertEqual(kind(2 * MIB) & 2, 2, "zeros of the upper layer over data")
        self.assertEqual(kind(2 * MIB + 65536), 0, "data of the lower layer beside them")

    def test_tcp_on_both_address_families(self):
        ports = testing.free_port(), testing.free_port("::1")
        for port, listen, uri in ((ports[0], f"127.0.0.1:{ports[0]}", f"nbd://127.0.0.1:{ports[0]}/"),
                                  (ports[1], f"[::1]:{ports[1]}", f"nbd://[::1]:{ports[1]}/")):
            address = ("127.0.0.1" if "127" in listen else "::1", port)
            self.start([testing.lbd_binary(), "serve", "--socket", self.path(f"c{port}"), "-l", listen,
                        "--source", "mem:1M"], ready=lambda a=address: testing.accepts(a))
            self.assertEqual(self.run_ok("nbdinfo", "--size", uri).stdout.strip(), str(MIB))


if __name__ == "__main__":
    interop.main()
