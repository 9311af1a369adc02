# SPDX-License-Identifier: MIT
"""The manual's example of two servers, with its very ports: never beside anything else that uses them."""

import scenarios
import testing


class TwoServers(scenarios.KernelCase):
    def setUp(self):
        super().setUp()
        for port in (6666, 7777, 8888, 9999):
            if testing.accepts(("127.0.0.1", port)):
                self.skipTest(f"port {port} is in use")

    def start_server(self, command_line, port):
        words = [self.path(word[6:]) if word.startswith("/path/") else word
                 for word in command_line.split()]
        return self.start([testing.lbd_binary(), *words[1:]], ready=scenarios.listens(port))

    def test_as_in_the_manual(self):
        lower = self.start_server("lbd serve -a6666 -l7777 -s 1G -E /path/test.expandable", 7777)
        self.assertIn("filesystem written", self.in_guest("filesystem_write", 7777))
        upper = self.start_server(
            "lbd serve -a8888 -l9999 -s 1G -E /path/test2.expandable -n localhost:7777", 9999)
        self.assertIn("lower layer intact", self.in_guest("overlay_write", 7777, TOP_PORT=9999))
        for port, name in ((6666, "test.expandable"), (8888, "test2.expandable")):
            self.assertEqual(scenarios.ask(port, "PING").strip(), "true")
            self.assertIn(name, scenarios.ask(port, "DEVICE_INFO_STRINGS"))
        for port, server, name in ((8888, upper, "test2.expandable"), (6666, lower, "test.expandable")):
            scenarios.ask(port, "SHUTDOWN")
            self.assertEqual(server.wait(), 0, server.output())
            self.check_image(self.path(name))


if __name__ == "__main__":
    testing.main()
