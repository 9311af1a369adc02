# SPDX-License-Identifier: MIT
"""Judge: fio with its NBD engine, verifying every block by checksum."""

import interop
import testing
from interop import MIB


class Fio(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("fio", "qemu-img")
        if "nbd" not in self.run_ok("fio", "--enghelp").stdout:
            self.skipTest("fio has no nbd engine")

    def fio(self, uri, *options):
        self.run_ok("fio", "--ioengine=nbd", f"--uri={uri}", "--name=verify", "--randseed=7", "--verify=crc32c",
                    "--verify_fatal=1", "--do_verify=1", "--minimal", f"--aux-path={self.dir}", *options)

    def workloads(self, *layers):
        server = self.serve(*layers)
        self.fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=32")
        self.fio(server.uri, "--rw=write", "--bs=256k", "--size=32m", "--iodepth=8")
        self.fio(server.uri, "--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512",
                 "--size=8m", "--offset=40m", "--iodepth=16", "--fsync=64")
        self.fio(server.uri, "--rw=randwrite", "--bs=16k", "--size=4m", "--offset_increment=8m", "--numjobs=4",
                 "--iodepth=8", "--group_reporting")
        self.assertEqual(server.stop(), 0)

    def test_memory(self):
        self.workloads("--source", "mem:64M")

    def test_flat_file(self):
        self.workloads("-f", self.data_file("flat.img", 64 * MIB))

    def test_change_file_over_data(self):
        base = self.data_file("base.img", 64 * MIB, holes=False)
        before = interop.digest(base)
        top = self.path("top.qcow2")
        self.workloads("-E", top, "-f", base)
        self.assert_clean(top)
        self.assertEqual(interop.digest(base), before)


if __name__ == "__main__":
    interop.main()
