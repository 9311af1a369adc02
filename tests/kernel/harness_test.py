# SPDX-License-Identifier: MIT
"""The guest and its scripts, tried on another maker's server: when this fails, LBD is not to blame."""

import scenarios
import testing


class Harness(scenarios.KernelCase):
    def nbdkit(self, *args):
        """nbdkit with these arguments on a free port, which is returned."""
        testing.require("nbdkit")
        port = testing.free_port()
        self.start(["nbdkit", "-f", "-i", "127.0.0.1", "-p", port, *args],
                   ready=scenarios.listens(port))
        return port

    def test_nbdkit_keeps_a_file_system(self):
        port = self.nbdkit("--filter=exportname", "memory", "64M", "exportname=disk",
                           "exportname-list=explicit")
        self.assertIn("disk", self.in_guest("list", port))
        self.assertIn("filesystem written", self.in_guest("filesystem_write", port, export="disk"))
        self.assertIn("filesystem intact", self.in_guest("filesystem_check", port, export="disk"))

    def test_a_failing_script_is_told(self):
        port = self.nbdkit("--filter=error", "memory", "64M", "error-pwrite-rate=100%")
        with self.assertRaisesRegex(AssertionError, "(?s)ended with status [1-9].*failed: line"):
            self.in_guest("filesystem_write", port)


if __name__ == "__main__":
    testing.main()
