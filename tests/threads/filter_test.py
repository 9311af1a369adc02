# SPDX-License-Identifier: MIT
"""The filter that refuses io_uring does that and nothing else."""

import pathlib
import sys

import testing

FILTER = pathlib.Path(__file__).with_name("without_io_uring.py")
IO_URING_SETUP = 425
PROBE = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(120)
print(libc.syscall({IO_URING_SETUP}, 1, params), ctypes.get_errno())
"""


class Filter(testing.Case):
    def test_io_uring_is_refused(self):
        done = self.run_ok(sys.executable, FILTER, sys.executable, "-c", PROBE)
        self.assertEqual(done.stdout.split(), ["-1", "1"])

    def test_other_calls_are_not(self):
        done = self.run_ok(sys.executable, FILTER, "sh", "-c", "cat /proc/self/status; ls / >/dev/null")
        self.assertRegex(done.stdout, r"Seccomp:\s+2")

    def test_exit_status_passes_through(self):
        self.assertEqual(self.run_any(sys.executable, FILTER, "sh", "-c", "exit 5").returncode, 5)


if __name__ == "__main__":
    testing.main()
