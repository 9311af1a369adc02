# SPDX-License-Identifier: MIT
"""./quickstart with a program that is built already: its check, and the commands that it tells users to try."""

import os
import pathlib
import re
import signal

import interop
import testing

QUICKSTART = str(testing.SOURCE_DIR / "quickstart")


class Quickstart(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("nbdinfo", "nbdcopy", "qemu-io", "qemu-img", "mke2fs", "debugfs", "e2fsck")
        self.env = dict(os.environ, LBD_BIN=testing.lbd_binary(), TMPDIR=str(self.dir))

    def test_check(self):
        done = self.run_ok(QUICKSTART, "--check", env=self.env, timeout_s=120)
        self.assertGreater(done.stdout.count("ok: "), 10, done.stdout)
        self.assertEqual(done.stdout.splitlines()[-1], "ok: quickstart works")
        self.assertEqual(list(self.dir.glob("lbd-quickstart.*")), [], "files are left behind")

    def test_what_it_tells_to_try_works(self):
        data = self.path("data")
        for turn in ("first", "again"):
            port = str(testing.free_port())
            process = self.start([QUICKSTART, "--dir", data, "--port", port], env=self.env)
            testing.wait_until(lambda process=process: "With the kernel" in process.output() or not process.running(),
                               "quickstart serves", timeout_s=60)
            shown = process.output()
            commands = re.findall(r"^  ((?:nbdinfo|qemu-io|qemu-img|/).*)$", shown.split("Try next")[1], re.MULTILINE)
            self.assertGreaterEqual(len(commands), 6, shown)
            for command in commands:
                self.run_ok("sh", "-c", f"cd {self.dir} && {command}", env=self.env)
            # After the layer was added: only a server that has all layers reads this again.
            uri = f"nbd://localhost:{port}"
            if turn == "again":
                self.run_ok("qemu-io", "-r", "-f", "raw", "-c", "read -P 0x77 3M 64k", uri)
            self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 0x77 3M 64k", uri)
            process.signal(signal.SIGINT)
            self.assertEqual(process.wait(), 0, process.output())
            for image in pathlib.Path(data).glob("*.qcow2"):
                self.assert_clean(image)

    def test_a_port_that_cannot_be_is_told_at_once(self):
        for port in ("0", "65536", "10809x", ""):
            done = self.run_fail(QUICKSTART, "--port", port, env=self.env)
            self.assertIn("--port", done.stderr)


if __name__ == "__main__":
    interop.main()
