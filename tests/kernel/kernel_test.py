# SPDX-License-Identifier: MIT
"""The real kernel's NBD client as LBD's judge."""

import concurrent.futures
import pathlib

import scenarios
import testing


class Kernel(scenarios.KernelCase):
    def test_file_system_survives_reconnect_and_restart(self):
        top = self.path("top.qcow2")
        server = self.serve_tcp("-s", "256M", "-E", top, "--name", "disk")
        self.assertIn("disk", self.in_guest("list", server.port))
        self.assertIn("filesystem written",
                      self.in_guest("filesystem_write", server.port, export="disk"))
        self.stop_gracefully(server)
        self.check_image(top)
        server = self.serve_tcp("-E", top, "--name", "disk")
        self.assertIn("filesystem intact",
                      self.in_guest("filesystem_check", server.port, export="disk"))
        self.stop_gracefully(server)
        self.check_image(top)

    def test_discards(self):
        top = self.path("top.qcow2")
        server = self.serve_tcp("-s", "128M", "-E", top)
        self.assertIn("discarded", self.in_guest("discard", server.port))
        self.stop_gracefully(server)
        self.check_image(top)

    def test_four_connections(self):
        top = self.path("top.qcow2")
        server = self.serve_tcp("-s", "128M", "-E", top)
        self.assertIn("four connections agree", self.in_guest("connections", server.port))
        self.stop_gracefully(server)
        self.check_image(top)

    def test_layers_added_under_load(self):
        share = pathlib.Path(self.path("share"))
        share.mkdir()
        control = testing.free_port()
        server = self.serve_tcp("-a", control, "-s", "128M", "-E", self.path("layer0"))
        layers = [self.path(f"layer{number}") for number in range(1, 6)]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            client = pool.submit(self.in_guest, "busy", server.port, share=share, SECONDS_BUSY=8)
            testing.wait_until(lambda: (share / "begun").exists() or client.done(),
                               "the guest writes", timeout_s=90)
            for layer in layers:
                if not client.done():
                    self.assertNotIn("ERROR", scenarios.ask(control, f"LIVE_ADD_LAYER {layer}"))
            self.assertIn("rounds without an error", client.result())
        self.assertIn(layers[-1], scenarios.ask(control, "DEVICE_INFO_STRINGS"))
        self.stop_gracefully(server)
        for layer in layers:
            self.check_image(layer)


if __name__ == "__main__":
    testing.main()
