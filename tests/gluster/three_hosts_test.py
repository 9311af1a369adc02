# SPDX-License-Identifier: MIT
"""Images on three real Gluster servers on a bridge: cut cables, dead hosts, quorum, healing."""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import cluster
import one_host_test
import testing


class ThreeHosts(one_host_test.Case):
    hosts = 3

    def cable(self, number, state):
        subprocess.run(["ip", "link", "set", f"v{number}", state], check=True)

    def all_servers(self, path):
        uri = self.cluster.uri(path, self.volume)
        return uri + "?" + "&".join(f"server={host.address}" for host in self.cluster.hosts[1:])

    def ready(self, server):
        done = self.run_any("qemu-io", "-f", "raw", "-c", "write -P 9 0 4k", "-c", "flush", server.uri, timeout_s=60)
        return "failed" not in done.stdout + done.stderr

    def host_processes(self, number):
        """The servers of one host, glusterd and bricks: those in its network."""
        space = os.stat(f"/run/netns/h{number}").st_ino
        out = []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                program = os.path.basename(os.readlink(f"/proc/{name}/exe"))
                if program.startswith("gluster") and os.stat(f"/proc/{name}/ns/net").st_ino == space:
                    out.append(int(name))
            except OSError:
                continue
        return out

    def documented_volume(self):
        """Makes the volume of the guide, as its lines stand there but for folders and addresses."""
        guide = (testing.SOURCE_DIR / "docs/gluster.md").read_text(encoding="utf-8")
        lines = re.search(r"```\n(apt-get install glusterfs-server.*?)```", guide, re.DOTALL).group(1).splitlines()
        self.assertLessEqual(len(lines), 10)

        def real(found):
            host = self.cluster.hosts[int(found[1]) - 1]
            return f"{host.address}:{host.bricks}/images-{host.number}" if found[2] else host.address

        for line in lines[1:]:
            words = shlex.split(re.sub(r"host(\d)(:/data/images)?", real, line), comments=True)
            words = [word.replace("10.0.0.*", "10.77.2.*") for word in words]
            if "create" in words:
                words.append("force")  # the bricks are in the machine's own file system
            for command in " ".join(words).split("; "):
                self.assertTrue(command.startswith("gluster "), command)
                said = self.cluster.gluster(*command.split()[1:])
        self.volume = "images"
        online = [line for line in said.splitlines() if re.search(r" Y +\d+ *$", line) and "Self-heal" not in line]
        self.assertEqual(len(online), 3, said)

    def test_the_documented_volume_heals_what_differs(self):
        self.documented_volume()
        size = 64 * one_host_test.MIB
        server = self.serve("-f", self.make("a.img", str(size)))
        self.io(server, "write -P 1 0 64M", "flush")
        self.cluster.kill_bricks(1, self.volume)
        self.io(server, "write -P 2 10M 64k", "flush")
        self.cluster.restore_bricks(self.volume)
        self.assert_bricks_equal("a.img")
        pid = self.cluster.brick_pids(self.volume)[self.cluster.brick_paths(self.volume)[0]]
        written = re.search(r"wchar: (\d+)", pathlib.Path(f"/proc/{pid}/io").read_text(encoding="ascii"))
        self.assertLess(int(written.group(1)), size // 4)
        self.assertEqual(server.stop(), 0)

    def test_a_brick_dies_and_heals(self):
        self.own_volume()
        server = self.serve("-f", self.make("a.img", "64M"))
        load = self.start_fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=24m", "--iodepth=16", "--loops=3",
                              "--fsync=128")
        time.sleep(1)
        self.cluster.kill_bricks(1, self.volume)
        time.sleep(3)
        self.cluster.restore_bricks(self.volume)
        self.assertEqual(load.wait(150), 0, load.output())
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("a.img")

    def test_a_cable_is_cut_under_load(self):
        self.own_volume()
        server = self.serve("-f", self.make("cable.img", "64M"))
        load = self.start_fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=24m", "--iodepth=16", "--loops=3",
                              "--fsync=128")
        time.sleep(1)
        self.cable(2, "down")
        time.sleep(8)
        self.cable(2, "up")
        self.assertEqual(load.wait(150), 0, load.output())
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("cable.img")

    def test_every_cable_is_cut(self):
        self.own_volume()
        other = self.path("flat.img")
        with open(other, "wb") as file:
            file.truncate(1 << 20)
        image = self.make("cut.img", "16M")
        server = self.serve("--name", "on-gluster", "-f", image + "?timeout=3", "--name", "flat", "-f", other)
        on_gluster = f"nbd+unix:///on-gluster?socket={server.socket}"
        flat = f"nbd+unix:///flat?socket={server.socket}"
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", "-c", "flush", on_gluster)
        for n in (1, 2, 3):
            self.cable(n, "down")
        begin = time.monotonic()
        cut = self.run_any("qemu-io", "-f", "raw", "-c", "write -P 2 0 64k", on_gluster, timeout_s=60)
        self.assertIn("failed", cut.stdout + cut.stderr)
        self.assertLess(time.monotonic() - begin, 20)
        # The daemon goes on for everybody else.
        begin = time.monotonic()
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 3 0 64k", "-c", "flush", flat)
        self.assertLess(time.monotonic() - begin, 3)
        for n in (1, 2, 3):
            self.cable(n, "up")
        server.uri = on_gluster
        testing.wait_until(lambda: self.ready(server), "the image works again", 60)
        self.run_ok("qemu-io", "-f", "raw", "-c", "read -P 9 0 4k", on_gluster)
        begin = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - begin, 5)
        self.assert_bricks_equal("cut.img")

    def test_the_first_server_is_gone_at_open_and_dies_while_running(self):
        self.own_volume()
        self.make("over.img", "32M")
        self.cable(1, "down")
        server = self.serve("-f", self.all_servers("over.img"))
        self.assertTrue(self.ready(server))
        self.cable(1, "up")
        time.sleep(6)
        self.cluster.wait_healed(self.volume)
        load = self.start_fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=8", "--loops=3",
                              "--fsync=64")
        time.sleep(1)
        dead = self.host_processes(2)
        self.assertGreater(len(dead), 1)
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        self.addCleanup(self.cluster.hosts[1].start)
        self.assertEqual(load.wait(150), 0, load.output())
        self.assertEqual(server.stop(), 0)

    def test_quorum_is_lost_and_returns(self):
        self.own_volume()
        server = self.serve("-f", self.make("quorum.img", "16M"))
        self.assertTrue(self.ready(server))
        self.cable(2, "down")
        self.cable(3, "down")
        testing.wait_until(lambda: not self.ready(server), "writes fail", 30)
        self.cable(2, "up")
        self.cable(3, "up")
        testing.wait_until(lambda: self.ready(server), "writes work again", 60)
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("quorum.img")


if __name__ == "__main__":
    cluster.enter()
    testing.main()
