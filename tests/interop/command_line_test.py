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
            self.assertRegex(self.lbd(command, "--help"), rf"Usage: lbd {command} (.|\n)*--help")
        self.assertIn("Usage: lbd device create ", self.lbd("device", "create", "--help"))
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
        self.fails(FAILED, self.serve_words("--name", "x" * 4097, "-f", flat), "--name")

    def test_layers_that_cannot_be_opened(self):
        missing = self.path("missing.img")
        self.fails(FAILED, self.serve_words("-f", missing), missing)
        self.fails(FAILED, self.serve_words("-f", str(self.dir)), str(self.dir))
        self.fails(FAILED, self.serve_words("-s", "1M", "-E", self.path("no/folder/x.qcow2")),
                   self.path("no/folder/x.qcow2"))
        self.fails(FAILED, self.serve_words("--source", f"qcow2:{missing}"), missing)
        with open(self.path("empty"), "wb"):
            pass
        self.assertIn("-E", self.fails(FAILED, self.serve_words("-f", self.path("empty")), self.path("empty")))
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

    def test_what_cannot_be_made_names_a_remedy_for_that(self):
        self.assertIn("folder", self.fails(FAILED, self.serve_words("-s", "1M", "-E", self.path("no/x"))))
        flat, copy = self.data_file("flat.img", MIB), self.path("copy.img")
        self.lbd("flatten", "-f", flat, "-o", copy)
        self.assertIn("free", self.fails(FAILED, ["flatten", "-f", flat, "-o", copy], copy))
        words = ["serve", "--socket", self.path("c"), "--source", "mem:1M"]
        self.assertIn("folder", self.fails(FAILED, [*words, "-u", self.path("no/s")], self.path("no/s")))
        self.assertIn("no socket", self.fails(FAILED, [*words, "-u", flat], flat))
        self.assertIn("address", self.fails(FAILED, [*words, "-l", "192.0.2.1:1234"], "192.0.2.1:1234"))
        self.assertIn("folder", self.fails(FAILED, [*words, "-u", self.path("s"), "--pid-file", self.path("no/p")],
                                           self.path("no/p"), "--pid-file"))

    def test_a_read_only_file_system_and_what_helps(self):
        place = self.tmpfs("2M")
        flat, top = f"{place}/flat.img", self.path("top.qcow2")
        self.run_ok("truncate", "-s", "1M", flat)
        self.run_ok("mount", "-o", "remount,ro", place)
        self.fails(FAILED, self.serve_words("-f", flat), flat, "with -r", "-E")
        self.fails(FAILED, self.serve_words("-E", f"{place}/new.qcow2", "-f", flat), "new.qcow2", "folder")
        self.assertEqual(self.serve("-r", "-f", flat).stop(), 0)
        server = self.serve("-E", top, "-f", flat)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", server.uri)
        self.assertEqual(server.stop(), 0)
        error = self.fails(FAILED, ["commit", "-E", top, "-f", flat], flat, "mount")
        self.assertNotIn("with -r", error)

    def complete(self, *words):
        """What bash offers for the last of the words, in the test's folder."""
        script = ('cd "$1"; shift; source <("$1" completion bash); shift; COMP_WORDS=(lbd "$@"); '
                  'COMP_CWORD=$#; _lbd; printf "%s\\n" "${COMPREPLY[@]}"')
        return self.run_ok("bash", "-c", script, "-", self.dir, testing.lbd_binary(), *words).stdout.splitlines()

    def test_completion(self):
        self.run_ok("bash", "-n", "-c", self.lbd("completion", "bash"))
        self.data_file("a disk.img", MIB)
        self.data_file("another.img", MIB)
        self.assertEqual(self.complete("add"), ["add-layer"])
        self.assertEqual(self.complete("serve", "--clu"), ["--cluster-size"])
        self.assertEqual(self.complete("serve", "--io", "t"), ["threads"])
        files = ["a disk.img", "another.img"]
        self.assertEqual(sorted(self.complete("serve", "-f", "a")), files)
        self.assertEqual(self.complete("serve", "-f", "a\\ d"), files[:1])
        self.assertEqual(sorted(self.complete("serve", "--flat", "=", "a")), files)
        self.assertEqual(sorted(self.complete("add-layer", "a")), files)
        self.assertEqual(sorted(self.complete("device", "re")), ["remove", "rename", "resume"])

    def test_errors_speak_of_remedies(self):
        error = self.fails(FAILED, self.serve_words("-f", self.path("missing.img")))
        self.assertTrue(re.search(r"\(.+\)|:.+", error), error)


if __name__ == "__main__":
    interop.main()
