# SPDX-License-Identifier: MIT
"""What the kernel does with an NBD server, whoever wrote it."""

import pathlib
import signal
import socket

import build_guest
import guest
import testing

SCRIPTS = pathlib.Path(__file__).resolve().parent / "guest"


def listens(port):
    """A condition for `ready`: somebody listens at this port of the loopback."""
    return lambda: testing.accepts(("127.0.0.1", port))


def ask(port, request):
    """One request of LBD's text protocol at this port; returns the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            part = connection.recv(65536)
            if not part:
                return answer.decode()
            answer += part


class KernelCase(testing.Case):
    """Runs scripts of the folder guest/ against a server on the host's loopback."""

    def in_guest(self, name, port, *, export="", share=None, timeout_s=150, **settings):
        """Runs guest/NAME.sh with HOST, PORT, EXPORT and these settings; returns what it printed.

        The test fails with the script's output when its status is not 0, and with the kernel's console
        too when the guest died. It is skipped where there can be no guest.
        """
        script = "".join((SCRIPTS / f"{part}.sh").read_text(encoding="utf-8") for part in ("lib", name))
        env = {"HOST": guest.HOST, "PORT": port, "EXPORT": export, **settings}
        try:
            result = guest.run(script, env=env, share=share, timeout_s=timeout_s)
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        if result.status != 0:
            console = "" if result.status is not None else result.console
            self.fail(f"guest/{name}.sh ended with status {result.status}\n{result.output}{console}")
        return result.output

    def serve_tcp(self, *args):
        """`lbd serve` on a free port of the loopback, in the result's .port."""
        port = testing.free_port()
        server = self.start(
            [testing.lbd_binary(), "serve", "-l", port, "--socket", self.path(f"ctl-{port}.sock"), *args],
            ready=listens(port))
        server.port = port
        return server

    def stop_gracefully(self, server):
        """SIGTERM, and the exit status has to be 0."""
        server.signal(signal.SIGTERM)
        self.assertEqual(server.wait(), 0, server.output())

    def check_image(self, path):
        """qemu-img finds neither errors nor leaks in a change file."""
        testing.require("qemu-img")
        self.assertIn("No errors were found", self.run_ok("qemu-img", "check", path).stdout)
