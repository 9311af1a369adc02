# SPDX-License-Identifier: MIT
"""A small Linux whose root file system is an image on Gluster, served over NBD, under emulation."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernel"))

import build_guest  # noqa: E402
import cluster  # noqa: E402
import guest  # noqa: E402
import one_host_test  # noqa: E402
import testing  # noqa: E402

# These run in the guest's system in memory: one puts a system of one program on the image, the other hands over to it.
INSTALL = """
set -e
modprobe ext4
mke2fs -q -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt
mkdir -p /mnt/bin /mnt/sbin /mnt/proc /mnt/dev
cp "$(readlink -f "$(command -v busybox)")" /mnt/bin/busybox
cp -a /dev/urandom /dev/null /mnt/dev/
printf '%s' "$INIT" >/mnt/sbin/init
chmod 755 /mnt/sbin/init
echo 0 >/mnt/boots
umount /mnt
"""

HAND_OVER = """
set -e
modprobe ext4
mount -t ext4 /dev/vda /mnt
mount -t proc proc /mnt/proc
chroot /mnt /sbin/init
umount /mnt/proc
umount /mnt
"""

INIT = """#!/bin/busybox sh
set -e
echo "root is $(busybox awk '$2 == "/" { print $1, $3 }' /proc/mounts | busybox tail -n 1)"
boots=$(busybox cat /boots)
busybox expr "$boots" + 1 >/boots
busybox dd if=/dev/urandom of=/data bs=64k count=64 2>/dev/null
busybox sha256sum /data >/data.sum
busybox sync
busybox sha256sum -c /data.sum
"""


class Guest(one_host_test.Case):
    def in_guest(self, script, server, **settings):
        try:
            result = guest.run(script, disks=[server.uri], env=settings, timeout_s=120)
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        self.assertEqual(result.status, 0, result.output + result.console)
        return result.output

    def test_a_small_linux_runs_from_an_image(self):
        testing.require("debugfs", "e2fsck", "nbdcopy")
        uri = self.make("root.img", "48M")
        server = self.serve("-f", uri)
        self.in_guest(INSTALL, server, INIT=INIT)
        for boot in (1, 2):
            output = self.in_guest(HAND_OVER, server)
            self.assertIn("root is /dev/vda ext4", output)
            self.assertIn("/data: OK", output)
            self.assertEqual(server.stop(), 0)
            server = self.serve("-f", uri)  # and once more
            back = self.path(f"back{boot}.img")
            self.run_ok("nbdcopy", server.uri, back)
            self.run_ok("e2fsck", "-fn", back)
            self.assertEqual(self.run_ok("debugfs", "-R", "cat /boots", back).stdout.strip(), str(boot))
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("root.img")


if __name__ == "__main__":
    cluster.enter()
    testing.main()
