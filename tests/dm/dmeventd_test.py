# SPDX-License-Identifier: MIT
"""Debian's dmeventd under `lbd run`: it hears of a snapshot that fills up, and makes it larger."""

import os

import mapped
import testing

MIB = 1 << 20


class Dmeventd(mapped.Case):
    def test_a_snapshot_is_watched_and_extended(self):
        testing.require("lvm", "dmeventd", "unshare")
        if os.geteuid() != 0:
            self.skipTest("dmeventd is root's")
        if self.run_any("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/run").returncode != 0:
            self.skipTest("no mount namespaces here")
        self.require_mount()
        os.rename(self.make_disk(96 * MIB), self.path("dev/p0"))
        self.disks = [self.path("dev/p0")]
        (self.dir / "lvm").mkdir()
        (self.dir / "lvm/lvm.conf").write_text(f"""
            devices {{ scan = ["{self.path("dev")}"] }}
            backup {{ backup = 0 archive = 0 }}
            activation {{ monitoring = 1 snapshot_autoextend_threshold = 70 snapshot_autoextend_percent = 50 }}
            """, encoding="utf-8")
        self.env["LVM_SYSTEM_DIR"] = self.path("lvm")
        # A /run of its own keeps the machine's dmeventd, if it has one, out of the test.
        script = f"""mount -t tmpfs none /run
            exec {testing.lbd_binary()} run --disk {self.disks[0]} -- bash -eu -o pipefail -c '
            trap "kill \\$(cat /run/dmeventd.pid)" EXIT
            tell() {{ lvs --noheadings --units m --nosuffix -o "$1" vg/snap | tr -d " "; }}
            pvcreate {self.disks[0]}; vgcreate vg {self.disks[0]}
            lvcreate -Wn -n base -L 32M vg; lvcreate -s -n snap -L 8M vg/base
            tell seg_monitor; tell lv_size
            dd if=/dev/urandom of=/dev/vg/base bs=1M count=6 oflag=direct status=none; tell data_percent
            for i in $(seq 300); do test $(tell lv_size) = 12.00 && break; sleep 0.1; done
            tell lv_size; tell data_percent
            lvchange --monitor n vg/snap; tell seg_monitor'"""
        done = self.run_any("unshare", "--mount", "bash", "-euc", script, env=self.env, timeout_s=100)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        said = done.stdout.splitlines()
        self.assertIn("monitored", said)
        self.assertEqual([line for line in said if line in ("8.00", "12.00", "not monitored", "notmonitored")],
                         ["8.00", "12.00", "notmonitored"])
        full = [float(line) for line in said if "." in line and line not in ("8.00", "12.00") and " " not in line]
        self.assertGreater(full[0], 70)
        self.assertLess(full[1], 70)


if __name__ == "__main__":
    testing.main()
