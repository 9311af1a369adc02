# SPDX-License-Identifier: MIT
"""Image locks: LBD and QEMU refuse an image that the other has open for writing."""

import os

import interop
import testing
from interop import MIB


class Locks(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-nbd", "qemu-io", "qemu-img")

    def qemu_nbd(self, image, image_format, *options):
        # One socket each: that of a server stopped a moment ago may still answer.
        path = self.path(f"{os.path.basename(image)}.sock")
        return self.start(["qemu-nbd", "-t", "-f", image_format, "-k", path, *options, image],
                          ready=lambda: testing.accepts(path))

    def lbd_refuses(self, image, *layers):
        done = self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"), *layers,
                              names=[image], timeout_s=20)
        self.assertRegex(done.stderr, "in use|another program")

    def change_file(self):
        image = self.path("top.qcow2")
        self.assertEqual(self.serve("-s", "4M", "-E", image).stop(), 0)
        return image

    def test_qemu_refuses_what_lbd_writes(self):
        image, flat = self.change_file(), self.data_file("flat.img", MIB)
        self.serve("-E", image)
        self.serve("-f", flat)
        for path, image_format in ((image, "qcow2"), (flat, "raw")):
            done = self.run_fail("qemu-io", "-f", image_format, "-c", "write 0 512", path)
            self.assertIn("lock", done.stderr)
            self.run_fail("qemu-img", "check", "-r", "all", "-f", image_format, path)

    def test_qemu_may_read_below_and_not_write(self):
        base = self.data_file("base.img", MIB)
        self.serve("-E", self.path("top.qcow2"), "-f", base)
        self.run_ok("qemu-io", "-r", "-f", "raw", "-c", "read 0 512", base)
        self.assertIn("lock", self.run_fail("qemu-io", "-f", "raw", "-c", "write 0 512", base).stderr)

    def test_lbd_refuses_what_qemu_writes(self):
        image, flat = self.change_file(), self.data_file("flat.img", MIB)
        for path, image_format, layers in ((image, "qcow2", ["-E", image]), (flat, "raw", ["-f", flat])):
            process = self.qemu_nbd(path, image_format)
            self.lbd_refuses(path, *layers)
            self.lbd_refuses(path, "-E", self.path("above.qcow2"), *layers)
            process.stop()
            server = self.serve(*layers)
            self.run_ok("qemu-io", "-f", "raw", "-c", "write 0 512", server.uri)
            self.assertEqual(server.stop(), 0)

    def test_readers_share(self):
        flat = self.data_file("flat.img", MIB)
        self.qemu_nbd(flat, "raw", "-r")
        first, second = self.serve("-r", "-f", flat), self.serve("-r", "-f", flat)
        for server in (first, second):
            self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", server.uri, flat)
        self.lbd_refuses(flat, "-f", flat)

    def test_two_lbds_refuse_each_other(self):
        image, flat = self.change_file(), self.data_file("flat.img", MIB)
        self.serve("-E", image, "-f", flat)
        self.lbd_refuses(image, "-E", image)
        self.lbd_refuses(flat, "-f", flat)
        self.lbd_refuses(image, "-E", self.path("other.qcow2"), "-E", image)
        self.serve("-E", self.path("other2.qcow2"), "-f", flat)  # two stacks may share a base that nobody writes

    def test_one_file_twice_in_a_stack_is_refused(self):
        flat = self.data_file("flat.img", MIB)
        self.lbd_fails("serve", "-u", self.path("s"), "--socket", self.path("c"), "-f", flat, "-f", flat,
                       names=[flat], timeout_s=20)

    def test_locks_end_with_a_killed_server(self):
        image = self.change_file()
        self.serve("-E", image).kill()
        self.assertEqual(self.serve("-E", image).stop(), 0)
        self.run_ok("qemu-io", "-c", "write 0 512", image)

    def test_offline_commands_refuse_what_is_in_use(self):
        image, flat = self.change_file(), self.data_file("flat.img", 4 * MIB)
        self.serve("-E", image, "-f", flat)
        for command in (["commit", "-E", image, "-f", flat], ["flatten", "-E", image, "-f", flat]):
            done = self.lbd_fails(*command, timeout_s=20)
            self.assertRegex(done.stderr, "in use|another program")


if __name__ == "__main__":
    interop.main()
