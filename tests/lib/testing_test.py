# SPDX-License-Identifier: MIT
"""The test helpers keep their own promises."""

import os
import subprocess
import sys
import textwrap
import unittest

import testing


def alive(pid):
    """True while a process runs; one that ended and was not yet reaped does not count."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Helpers(testing.Case):
    def run_file(self, body):
        """Runs a test file with this body; returns the completed process."""
        path = self.path("sample.py")
        with open(path, "w", encoding="utf-8") as sample:
            sample.write(textwrap.dedent(body))
        return subprocess.run([sys.executable, "-B", path], capture_output=True, text=True, check=False)

    def test_ports_differ(self):
        ports = {testing.free_port() for _ in range(20)}
        self.assertEqual(len(ports), 20)

    def test_missing_tool_skips(self):
        with self.assertRaises(unittest.SkipTest):
            testing.require("sh", "no-such-program-anywhere")
        testing.require("sh")

    def test_early_end_is_told_with_its_output(self):
        with self.assertRaisesRegex(AssertionError, "status 3:\nbroken"):
            self.start(["sh", "-c", "echo broken; exit 3"], ready=lambda: False)

    def test_stop_ends_a_process(self):
        process = self.start(["sleep", "100"])
        self.assertTrue(process.running())
        self.assertEqual(process.stop(), -15)

    def test_deaf_process_is_killed_and_told(self):
        process = self.start(
            ["sh", "-c", "trap '' TERM; : > \"$0\"; while :; do sleep 0.1; done", self.path("up")],
            ready=lambda: os.path.exists(self.path("up")))
        with self.assertRaisesRegex(AssertionError, "did not end"):
            process.stop(timeout_s=0.3)
        self.assertFalse(process.running())

    def test_servers_die_with_a_killed_test(self):
        body = """
            import os, signal, testing
            class T(testing.Case):
                def test_it(self):
                    with open(%r, "w") as pids:
                        pids.write(str(self.start(["sleep", "100"]).pid))
                    os.kill(os.getpid(), signal.SIGKILL)
            testing.main()
            """ % self.path("pid")
        self.assertEqual(self.run_file(body).returncode, -9)
        with open(self.path("pid"), encoding="ascii") as pids:
            pid = int(pids.read())
        testing.wait_until(lambda: not alive(pid), "the orphan is gone", timeout_s=5)

    def test_exit_statuses(self):
        sample = "import testing\nclass T(testing.Case):\n    def test_it(self):\n        %s\ntesting.main()\n"
        self.assertEqual(self.run_file(sample % "pass").returncode, 0)
        self.assertEqual(self.run_file(sample % "self.fail()").returncode, 1)
        self.assertEqual(self.run_file(sample % "self.skipTest('x')").returncode, testing.SKIPPED)
        self.assertEqual(self.run_file("import testing\ntesting.main()\n").returncode, 1)

    def test_run_fail_wants_an_error(self):
        self.run_fail("false")
        with self.assertRaises(AssertionError):
            self.run_fail("true")
        with self.assertRaises(AssertionError):
            self.run_fail("sh", "-c", "kill -9 $$")
        with self.assertRaises(AssertionError):
            self.run_ok("false")


if __name__ == "__main__":
    testing.main()
