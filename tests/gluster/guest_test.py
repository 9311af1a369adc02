# SPDX-License-Identifier: MIT
"""A small Linux that boots from an image on Gluster, served over NBD, under emulation."""

import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "kernel"))

import build_guest  # noqa: E402
import cluster  # noqa: E402
import guest  # noqa: E402
import one_host_test  # noqa: E402
import testing  # noqa: E402

# Runs in the guest's system in memory: puts a system on the image, with an init of its own.
INSTALL = """
set -e
modprobe ext4
mke2fs -q -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt
mkdir -p /mnt/bin /mnt/sbin /mnt/etc /mnt/proc /mnt/dev
cp "$(readlink -f "$(command -v busybox)")" /mnt/bin/busybox
for applet in $(busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "/mnt/bin/$applet"
done
ln -s ../bin/busybox /mnt/sbin/init
printf '%s' "$INITTAB" >/mnt/etc/inittab
printf '%s' "$RC" >/mnt/etc/rc
chmod 755 /mnt/etc/rc
echo 0 >/mnt/boots
umount /mnt
"""

INITTAB = """::sysinit:/etc/rc
::wait:/bin/reboot
::shutdown:/bin/umount -a -r
"""

RC = """#!/bin/sh
set -e
export PATH=/bin
mount -t proc proc /proc
echo "init is $(readlink /proc/1/exe), root is $(awk '$2 == "/" { print $1, $3 }' /proc/mounts | tail -n 1)"
if [ -e /data ]; then sha256sum -c /data.sum; fi
expr "$(cat /boots)" + 1 >/boots
dd if=/dev/urandom of=/data bs=64k count=64 2>/dev/null
sha256sum /data >/data.sum
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum -c /data.sum
"""

# The kernel's first process: finds the disk, and leaves everything to the system there.
HAND_OVER = """#!/bin/busybox sh
export PATH=/usr/sbin
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
modprobe -a virtio_pci virtio_blk ext4
until [ -b /dev/vda ]; do sleep 0.05; done
mount -t ext4 /dev/vda /mnt
mount --move /dev /mnt/dev
exec switch_root /mnt /sbin/init
"""


class Guest(one_host_test.Case):
    def install(self, server):
        try:
            result = guest.run(INSTALL, disks=[server.uri], env={"INITTAB": INITTAB, "RC": RC}, timeout_s=120)
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        self.assertEqual(result.status, 0, result.output + result.console)

    def boot(self, server):
        """Boots from the disk, until the system there ends it; what it said on its console."""
        kernel = build_guest.build()
        with tempfile.TemporaryDirectory(dir=self.dir) as name:
            scratch = pathlib.Path(name)
            root = scratch / "root"
            root.mkdir()
            (root / "hand-over").write_text(HAND_OVER, encoding="ascii")
            (root / "hand-over").chmod(0o755)
            build_guest.write_archive(root, scratch / "more.cpio")
            # The kernel unpacks one archive after the other.
            (scratch / "initrd.cpio").write_bytes((kernel / "initrd.cpio").read_bytes()
                                                  + (scratch / "more.cpio").read_bytes())
            for file in ("script", "env", "out", "status", "console"):
                (scratch / file).write_text("\n", encoding="ascii")
            argv = guest.command(kernel, scratch, 1, 256, [server.uri], None)
            argv[argv.index("-initrd") + 1] = str(scratch / "initrd.cpio")
            argv = [word.replace("rdinit=/init", "rdinit=/hand-over").replace("cache=unsafe", "cache=writeback")
                    for word in argv]
            subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True)
            return (scratch / "console").read_text(errors="replace")

    def test_a_small_linux_boots_from_an_image(self):
        testing.require("debugfs", "e2fsck", "nbdcopy")
        uri = self.make("root.img", "48M")
        server = self.serve("-f", uri)
        self.install(server)
        for boot in (1, 2):
            said = self.boot(server)
            self.assertIn("init is /bin/busybox, root is /dev/vda ext4", said)
            self.assertEqual(said.count("/data: OK"), boot, said)
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
