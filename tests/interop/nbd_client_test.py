# SPDX-License-Identifier: MIT
"""Judge: `nbd-client -l` (listing needs no kernel module)."""

import interop
import testing


class NbdClient(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("nbd-client")
        self.client = "/usr/sbin/nbd-client"

    def serve_on_port(self, *args):
        port = testing.free_port()
        self.start([testing.lbd_binary(), "serve", "--socket", self.path("ctl"), "-l", str(port), *args,
                    "--source", "mem:1M"], ready=lambda: testing.accepts(("127.0.0.1", port)))
        return str(port)

    def test_lists_the_export_by_name(self):
        port = self.serve_on_port("--name", "disk one")
        listed = self.run_ok(self.client, "-l", "127.0.0.1", port).stdout
        self.assertIn("disk one", listed)

    def test_lists_the_default_export(self):
        self.run_ok(self.client, "-l", "127.0.0.1", self.serve_on_port())

    def test_the_server_goes_on_after_many_lists(self):
        port = self.serve_on_port("--name", "a")
        for _ in range(50):
            self.assertIn("a", self.run_ok(self.client, "-l", "127.0.0.1", port).stdout)
        self.run_ok("nbdinfo", "--size", f"nbd://127.0.0.1:{port}/a")


if __name__ == "__main__":
    interop.main()
