# SPDX-License-Identifier: MIT
"""lbd commit, flatten and map on files at rest, judged by qemu-img."""

import json
import os
import re
import subprocess

import interop
import testing
from interop import MIB


class Offline(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("qemu-img", "qemu-io", "nbdcopy")
        self.base = self.data_file("base.img", 8 * MIB)
        self.middle, self.top = self.path("middle.qcow2"), self.path("top.qcow2")

    def write(self, layers, *commands):
        """Serves a stack, runs qemu-io commands on it, returns its content."""
        server = self.serve(*layers)
        words = [word for command in commands for word in ("-c", command)]
        self.run_ok("qemu-io", "-f", "raw", *words, server.uri)
        content = self.device_bytes(server.uri)
        self.assertEqual(server.stop(), 0)
        return content

    def content(self, *layers):
        server = self.serve("-r", *layers)
        content = self.device_bytes(server.uri)
        self.assertEqual(server.stop(), 0)
        return content

    CHANGES = ("write -P 1 100k 300k", "write -P 2 512 512", "write -z 2M 1M", "discard 4M 1M",
               "write -P 3 8388096 512")

    def test_commit_into_a_flat_file(self):
        layers = ["-E", self.top, "-f", self.base]
        content = self.write(layers, *self.CHANGES)
        self.lbd("commit", *layers)
        self.assertEqual(interop.read_file(self.base), content)
        self.assertEqual(self.content(*layers), content)
        self.assert_clean(self.top)

    def test_commit_into_a_change_file(self):
        before = interop.digest(self.base)
        lower = ["-E", self.middle, "-f", self.base]
        self.write(lower, "write -P 7 0 1M", "write -P 8 3M 100k")
        content = self.write(["-E", self.top, *lower], *self.CHANGES)
        self.lbd("commit", "-E", self.top, *lower)
        self.assertEqual(self.content(*lower), content)
        self.assert_clean(self.middle)
        self.assertEqual(interop.digest(self.base), before)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.middle, self.path("by-qemu.raw"))
        self.assertEqual(interop.read_file(self.path("by-qemu.raw")), content)

    def test_commit_and_remove(self):
        layers = ["-E", self.top, "-f", self.base]
        content = self.write(layers, *self.CHANGES)
        self.lbd("commit", "--remove", *layers)
        self.assertFalse(os.path.exists(self.top))
        self.assertEqual(interop.read_file(self.base), content)

    def test_commit_is_what_qemu_would_have_done(self):
        layers = ["-E", self.top, "-f", self.base]
        self.write(layers, *self.CHANGES)
        for path in (self.base, self.top):
            self.run_ok("cp", "--sparse=always", path, path + ".copy")
        self.run_ok("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", self.base + ".copy", "-F", "raw",
                    self.top + ".copy")
        self.run_ok("qemu-img", "commit", "-q", "-f", "qcow2", self.top + ".copy")
        self.lbd("commit", *layers)
        self.run_ok("cmp", self.base, self.base + ".copy")

    def test_flatten_to_a_new_file(self):
        lower = ["-E", self.middle, "-f", self.base]
        self.write(lower, "write -P 7 0 1M")
        layers = ["-E", self.top, *lower]
        content = self.write(layers, *self.CHANGES)
        out = self.path("flat.raw")
        digests = [interop.digest(path) for path in (self.top, self.middle, self.base)]
        self.lbd("flatten", *layers, "-o", out)
        self.assertEqual(interop.read_file(out), content)
        self.assertEqual([interop.digest(path) for path in (self.top, self.middle, self.base)], digests)
        self.assertLess(os.stat(out).st_blocks * 512, 7 * MIB, "holes were filled")

    def test_flatten_in_place(self):
        layers = ["-E", self.top, "-f", self.base]
        content = self.write(layers, *self.CHANGES)
        before = interop.digest(self.base)
        self.lbd("flatten", *layers)
        self.assertEqual(interop.digest(self.base), before)
        os.unlink(self.base)
        self.assertNotIn("backing-filename", self.image_info(self.top))
        self.assertEqual(self.content("-E", self.top), content)
        self.assert_clean(self.top)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.top, self.path("by-qemu.raw"))
        self.assertEqual(interop.read_file(self.path("by-qemu.raw")), content)

    def test_flatten_does_not_overwrite(self):
        self.write(["-E", self.top, "-f", self.base], "write 0 512")
        precious = self.data_file("precious", MIB)
        before = interop.digest(precious)
        self.lbd_fails("flatten", "-E", self.top, "-f", self.base, "-o", precious, names=[precious])
        self.assertEqual(interop.digest(precious), before)

    def test_map_tells_which_layer_holds_what(self):
        self.write(["-E", self.middle, "-f", self.base], "write -P 7 1M 64k")
        layers = ["-E", self.top, "-E", self.middle, "-f", self.base]
        self.write(layers, "write -P 1 4M 128k", "write -z 6M 64k")
        text = self.lbd("map", *layers)
        for path in (self.top, self.middle, self.base):
            self.assertIn(path, text)
        extents = self.extents(json.loads(self.lbd("map", "--json", *layers)))
        self.assertEqual(sum(extent["length"] for extent in extents), 8 * MIB)
        position = 0
        for extent in extents:
            self.assertEqual(extent["offset"], position, "extents follow each other")
            position += extent["length"]
        found = {}
        for offset in (0, MIB, 4 * MIB, 6 * MIB):
            found[offset] = next(e for e in extents if e["offset"] <= offset < e["offset"] + e["length"])
        self.assertEqual([found[o].get("layer") for o in (0, MIB, 4 * MIB, 6 * MIB)], [2, 1, 0, 0], found)
        self.assertEqual((found[4 * MIB]["offset"], found[4 * MIB]["length"]), (4 * MIB, 131072))

    @staticmethod
    def extents(told):
        """The list of extents, whether it is the whole answer or a member of it."""
        return told if isinstance(told, list) else told["extents"]

    def test_map_agrees_with_qemu_img_map(self):
        self.write(["-E", self.top, "-f", self.base], "write -P 1 4M 128k", "write -P 1 70k 3k", "write -z 1M 64k")
        ours = self.extents(json.loads(self.lbd("map", "--json", "-E", self.top, "-f", self.base)))
        theirs = json.loads(self.run_ok("qemu-img", "map", "--output=json", "-f", "qcow2", self.top).stdout)
        for extent in theirs:
            if extent["data"] and extent["depth"] == 0:
                mine = next(e for e in ours if e["offset"] <= extent["start"] < e["offset"] + e["length"])
                self.assertEqual(mine["layer"], 0, f"{extent} is data of the top layer for QEMU, {mine} for us")

    def test_large_commit_shows_progress_as_plain_lines(self):
        big = self.path("big.img")
        with open(big, "wb") as file:
            file.truncate(4096 * MIB)
        top = self.path("bigtop.qcow2")
        server = self.serve("-E", top, "-f", big)
        self.run_ok("qemu-io", "-f", "raw",
                    *[w for i in range(16) for w in ("-c", f"write -P {i + 1} {i * 256}M 16M")], server.uri)
        self.assertEqual(server.stop(), 0)
        done = self.run_ok(testing.lbd_binary(), "commit", "-E", top, "-f", big)
        for text in (done.stdout, done.stderr):
            self.assertIsNone(re.search(r"[\r\033]", text), "terminal control characters in a pipe")
        self.run_ok("qemu-io", "-r", "-f", "raw", "-c", "read -P 16 3840M 16M", big)

    def test_a_long_command_tells_rate_and_time_left_on_a_terminal_and_in_a_pipe(self):
        testing.require("nbdkit")
        slow = self.path("slow")
        self.start(["nbdkit", "-f", "-U", slow, "--filter=delay", "pattern", "16M", "rdelay=500ms"],
                   ready=lambda: testing.accepts(slow))
        command = [testing.lbd_binary(), "flatten", "-n", f"nbd+unix:///?socket={slow}", "-o"]
        terminal, their_end = os.openpty()
        self.addCleanup(os.close, terminal)
        with subprocess.Popen([*command, self.path("one")], stdout=subprocess.DEVNULL, stderr=their_end) as one:
            os.close(their_end)
            told = self.run_ok(*command, self.path("two")).stderr
            self.assertEqual(one.wait(), 0)
        shown = os.read(terminal, 65536).decode()
        line = r"flatten: \d+ %, \d+ MiB of 16 MiB, [\d.]+ [KM]iB/s"
        self.assertRegex(shown, rf"^(\r{line}, \d+:\d\d left\033\[K)+\r{line}\033\[K\r\n$")
        self.assertRegex(told, rf"^{line}, \d+:\d\d left\n")
        lines = told.splitlines()
        self.assertRegex(lines[-1], "^flatten: 100 %")
        self.assertEqual(len(set(lines)), len(lines), lines)
        self.assertEqual(interop.digest(self.path("one")), interop.digest(self.path("two")))

    def test_wrong_stacks_are_one_line(self):
        missing = self.path("missing.qcow2")
        for command in ("commit", "flatten", "map"):
            self.lbd_fails(command, "-E", missing, "-f", self.base, names=[missing])
            self.assertFalse(os.path.exists(missing), f"{command} made a change file")
        self.lbd_fails("commit", "-E", self.top)


if __name__ == "__main__":
    interop.main()
