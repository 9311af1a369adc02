# SPDX-License-Identifier: MIT
"""The command line: help, sizes, and wrong usage as one line that names the option and the remedy."""

import os
import re

import interop
import testing
from interop import MIB

USAGE, FAILED = 2, 1


class CommandLine(interop.Case):
    def fails(self, status, args, *names):
        done = self.lbd_fails(*args, names=names, timeout_s=20)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertLess(len(done.stderr), 500)
        return done.stderr

    def serve_words(self, *args):
        return ["serve", "-u", self.path("s"), "--socket", self.path("c"), *args]

    def test_help_and_version(self):
        self.assertRegex(self.lbd("--version"), r"^lbd \d+\.\d+")
        text = self.lbd("--help")
        for command in ("serve", "ping", "info", "shutdown", "add-layer", "commit", "flatten", "map"):
            self.assertIn(command, text)
            self.assertIn("--help", self.lbd(command, "--help"))
        for option in ("-l", "-u", "-a", "-s", "-r", "--name", "-E", "-f", "-n", "--source", "--pid-file"):
            self.assertIn(option, self.lbd("serve", "--help"))

    def test_wrong_words(self):
        self.fails(USAGE, [], "--help")
        self.fails(USAGE, ["nonsense"], "nonsense")
        self.fails(USAGE, self.serve_words("--nonsense", "-f", "x"), "--nonsense")
        self.fails(USAGE, self.serve_words(), "-E")
        self.fails(USAGE, self.serve_words("file.img"), "file.img", "-f")
        self.fails(USAGE, ["ping", "now"], "now")
        self.fails(USAGE, ["add-layer"], "FILE")

    def test_wrong_values(self):
        flat = self.data_file("flat.img", MIB)
        for text in ("banana", "-1", "1KB", "99999999999G", "", "1.00000001K"):
            self.fails(USAGE, self.serve_words("-s", text, "-f", flat), "-s")
        for text in ("0", "65536", "host:", "port", "::1:99", ""):
            self.fails(USAGE, self.serve_words("-l", text, "-f", flat), "-l")
        self.fails(USAGE, self.serve_words("-a", "x:y:z", "-f", flat), "-a")
        self.fails(USAGE, self.serve_words("-f", flat, "-s", "1M", "-s", "2M"), "-s")

    def test_layers_that_cannot_be_opened(self):
        missing = self.path("missing.img")
        self.fails(FAILED, self.serve_words("-f", missing), missing)
        self.fails(FAILED, self.serve_words("-f", str(self.dir)), str(self.dir))
        self.fails(FAILED, self.serve_words("-s", "1M", "-E", self.path("no/folder/x.qcow2")),
                   self.path("no/folder/x.qcow2"))
        self.fails(FAILED, self.serve_words("--source", f"qcow2:{missing}"), missing)
        for source in ("nonsense:1", "mem:", "mem:x", "file:", "nbd:"):
            done = self.lbd_fails(*self.serve_words("--source", source), names=[source], timeout_s=20)
            self.assertIn(done.returncode, (USAGE, FAILED))
        self.assertFalse(os.path.exists(missing))

    def test_a_new_change_file_needs_a_size(self):
        top = self.path("top.qcow2")
        error = self.fails(FAILED, self.serve_words("-E", top))
        self.assertIn("-s", error)
        self.assertFalse(os.path.exists(top), "a change file without a size was made")

    def test_sizes(self):
        testing.require("nbdinfo")
        for text, size in (("1M", MIB), ("1MiB", MIB), ("1.5M", 3 * MIB // 2), ("1024K", MIB),
                           ("1048576", MIB), ("2048s", MIB)):
            server = self.serve("-s", text, "--source", "null:1G")
            self.assertEqual(self.run_ok("nbdinfo", "--size", server.uri).stdout.strip(), str(size), text)
            self.assertEqual(server.stop(), 0)

    def test_unwritable_base_below_a_change_file_is_fine(self):
        testing.require("qemu-io")
        base = self.data_file("base.img", MIB)
        os.chmod(base, 0o444)
        server = self.serve("-E", self.path("top.qcow2"), "-f", base)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write 0 64k", server.uri)

    def test_completion_knows_the_commands(self):
        script = self.lbd("completion", "bash")
        self.assertIn("add-layer", script)
        self.run_ok("bash", "-n", "-c", script)

    def test_errors_speak_of_remedies(self):
        error = self.fails(FAILED, self.serve_words("-f", self.path("missing.img")))
        self.assertTrue(re.search(r"\(.+\)|:.+", error), error)


if __name__ == "__main__":
    interop.main()
