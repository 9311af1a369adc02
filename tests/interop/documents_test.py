# SPDX-License-Identifier: MIT
"""The commands that README, docs/ and the man pages show, run as they stand there.

Ports, and paths in /tmp and /path, become the test's own.
"""

import os
import pathlib
import re

import interop
import testing
from interop import MIB


def lines_of(page):
    """The commands that a page shows, without their comments."""
    text = (testing.SOURCE_DIR / page).read_text("utf-8")
    if page.endswith(".1"):
        blocks = re.findall(r"^\.nf\n(.*?)^\.fi$", text.replace("\\-", "-"), re.MULTILINE | re.DOTALL)
    else:
        blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].rstrip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.split(" ")[0] in ("lbd", "nbdinfo", "nbdcopy", "qemu-img")]


class Documents(interop.Case):
    def setUp(self):
        super().setUp()
        testing.require("nbdinfo", "nbdcopy", "qemu-img")
        for name in ("golden.raw", "base.raw", "image.raw"):
            self.data_file(name, 4 * MIB)
        for name, size in (("a.img", 64 * MIB), ("b.img", 64 * MIB), ("test.img", 1024 * MIB)):
            with open(self.path(name), "wb") as file:
                file.truncate(size)
        self.assertEqual(self.serve("-E", self.path("updates.qcow2"), "-f", self.path("golden.raw")).stop(), 0)
        binary = pathlib.Path(testing.lbd_binary())
        self.env = {key: value for key, value in os.environ.items() if key != "LBD_SOCKET"}
        self.env["PATH"] = f"{binary.parent}:{self.env['PATH']}:/usr/sbin:/sbin"
        self.env["LBD_RUNTIME_DIR"] = self.path("run")
        self.ports = {}
        self.servers = []

    def port(self, shown):
        return self.ports.setdefault(shown, str(testing.free_port()))

    def run_page(self, page):
        lines = lines_of(page)
        self.assertTrue(lines, f"{page} shows no commands any more")
        for line in lines:
            line = re.sub(r"(?<=\D)(6666|7777|8888|9999)(?=\D|$)", lambda found: self.port(found[1]), line)
            line = re.sub(r"(?<=nbd://localhost)(?=[\s/]|$)", ":" + self.port("10809"), line)
            line = re.sub(r"/(tmp|path)/", f"{self.dir}/", line)
            self.run_line(line)
        for server in reversed(self.servers):
            self.assertEqual(server.stop() if server.running() else server.wait(), 0, server.output())
        self.servers.clear()

    def run_line(self, line):
        command = ["sh", "-c", f"cd {self.dir} && exec {line}"]
        if not line.startswith("lbd serve "):
            self.run_ok(*command, env=self.env)
            return
        server = self.start(command, env=self.env)
        testing.wait_until(lambda: "nbd" in server.output() or not server.running(), f"an answer to {line}")
        self.assertTrue(server.running(), f"{line}: {server.output()}")
        self.servers.append(server)

    def test_readme(self):
        self.run_page("README.md")
        self.assert_clean(self.path("vm7.qcow2"))

    def test_layers(self):
        self.run_page("docs/layers.md")

    def test_nbd(self):
        self.serve("-u", self.path("vm.sock"), "-l", self.port("10809"), "-s", "4M", "-E", self.path("vm.qcow2"))
        self.run_page("docs/nbd.md")
        self.run_ok("qemu-img", "compare", "-f", "raw", "-F", "raw", f"nbd://localhost:{self.port('10809')}",
                    self.path("image.raw"))

    def test_man_pages(self):
        self.run_page("docs/man/lbd-serve.1")
        self.run_page("docs/man/lbd-flatten.1")
        self.run_page("docs/man/lbd-commit.1")


if __name__ == "__main__":
    interop.main()
