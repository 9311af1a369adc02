# SPDX-License-Identifier: MIT
"""Debian's LVM2 under `lbd run`: groups on files, volumes with file systems, snapshots, merges."""

import os

import mapped
import testing

MIB = 1 << 20
DISK_MIB = 64


class Lvm(mapped.Case):
    """Three disks, p0 to p2, and a configuration that looks at nothing else."""

    def setUp(self):
        super().setUp()
        testing.require("lvm", "mkfs.ext4", "e2fsck", "debugfs", "resize2fs")
        self.require_mount()
        for i in range(3):
            os.rename(self.make_disk(DISK_MIB * MIB), self.path(f"dev/p{i}"))
        self.disks = [self.path(f"dev/p{i}") for i in range(3)]
        self.group = f"vg{os.getpid()}"
        (self.dir / "lvm").mkdir()
        self.configure(f'scan = ["{self.path("dev")}"]')
        self.env.update(LVM_SYSTEM_DIR=self.path("lvm"), G=self.group, D=self.path("dev"))

    def configure(self, devices):
        (self.dir / "lvm/lvm.conf").write_text(f"""
            devices {{ {devices} }}
            global {{ locking_dir = "{self.path('lvm/lock')}" }}
            backup {{ backup_dir = "{self.path('lvm/backup')}" archive_dir = "{self.path('lvm/archive')}" }}
            activation {{ monitoring = 0 }}
            """, encoding="utf-8")

    def lines(self, script):
        return [line.strip() for line in self.sh(script).splitlines()]

    MAKE = """
        q() { "$@" >/dev/null; }
        q pvcreate $D/p0 $D/p1 $D/p2; q vgcreate $G $D/p0 $D/p1; q vgextend $G $D/p2
        """
    FILES = r"""
        put() { printf "$3" > new; for c in "rm $2" "write new $2"; do debugfs -w -R "$c" $1 >/dev/null 2>&1; done; }
        show() { debugfs -R "cat $2" $1 2>/dev/null; echo; }
        volumes() { lvs --noheadings --separator : --units m --nosuffix -o "$1" $G; }
        """


class Volumes(Lvm):
    def test_groups_and_what_lies_on_the_disks(self):
        said = self.lines(self.MAKE + """
            pvs --noheadings --separator : -o pv_name,vg_name,pv_size,pv_free --units m --nosuffix
            vgs --noheadings --separator : -o vg_name,pv_count,lv_count,vg_size,vg_free --units m --nosuffix
            vgck $G && pvck $D/p0 >/dev/null && echo fine
            q vgreduce $G $D/p2; q pvremove $D/p2; pvs --noheadings -o pv_name
            q lvcreate -n one -L 8M $G; q vgremove -y $G; pvs --noheadings -o vg_name; dmsetup ls""")
        free = f"{DISK_MIB - 4}.00"
        at = self.path("dev")
        self.assertEqual([line for line in said if ":" in line], [
            *[f"{at}/p{i}:{self.group}:{free}:{free}" for i in range(3)],
            f"{self.group}:3:0:{3 * (DISK_MIB - 4)}.00:{3 * (DISK_MIB - 4)}.00"])
        self.assertIn("fine", said)
        self.assertEqual(said[-1], "No devices found")
        # What was written is LVM's own: outside, without LBD, it reads the same.
        headers = self.run_ok("lvm", "pvck", "--dump", "headers", self.path("dev/p0"), env=self.env).stdout
        self.assertIn("label_header.crc 0x", headers)

    def test_linear_and_striped_volumes(self):
        said = self.lines(self.MAKE + self.FILES + """
            q lvcreate -Wn -n lin -L 32M $G $D/p0; q lvcreate -Wn -n str -i 2 -I 64k -L 32M $G $D/p1 $D/p2
            volumes lv_name,lv_size,segtype,stripes,devices | sort
            dmsetup table | cut -d' ' -f1-6 | sort
            for v in lin str; do
              dd if=/dev/urandom of=$v.data bs=1M count=32 status=none
              dd if=$v.data of=/dev/$G/$v bs=1M oflag=direct status=none; cmp $v.data /dev/$G/$v && echo same
            done
            q lvchange -an $G/str; q lvremove -y $G/str; ls /dev/$G; volumes lv_name""")
        at = self.path("dev")
        self.assertEqual(said[:2], [f"lin:32.00:linear:1:{at}/p0(0)", f"str:32.00:striped:2:{at}/p1(0),{at}/p2(0)"])
        self.assertEqual(said[2:4], [f"{self.group}-lin: 0 65536 linear 512:0 2048",
                                     f"{self.group}-str: 0 65536 striped 2 128"])
        self.assertEqual(said[-4:], ["same", "same", "lin", "lin"])
        # Extents begin at 1 MiB.
        data = {name: (self.dir / f"dev/{name}.data").read_bytes() for name in ("lin", "str")}
        disks = [(self.dir / f"dev/p{i}").read_bytes() for i in range(3)]
        self.assertTrue(data["lin"] == disks[0][MIB:33 * MIB])
        stripe = 65536
        striped = b"".join(disk[at:at + stripe] for at in range(MIB, 17 * MIB, stripe) for disk in disks[1:])
        self.assertTrue(data["str"] == striped)

    def test_a_file_system_grows_with_its_volume(self):
        said = self.lines(self.MAKE + self.FILES + """
            q lvcreate -n fs -L 16M $G; mkfs.ext4 -q /dev/$G/fs; put /dev/$G/fs file kept
            q lvextend -L +84M $G/fs; volumes lv_name,lv_size,seg_count | sort -u
            blockdev --getsize64 /dev/$G/fs; e2fsck -fp /dev/$G/fs >/dev/null; resize2fs /dev/$G/fs 2>/dev/null
            show /dev/$G/fs file; e2fsck -fn /dev/$G/fs >/dev/null 2>&1; echo $?
            q lvreduce -y --resizefs -L 40M $G/fs >/dev/null 2>&1 || q lvreduce -f -y -L 40M $G/fs
            blockdev --getsize64 /dev/$G/fs; q lvrename $G fs other; ls /dev/$G""")
        self.assertIn("fs:100.00:2", said)
        self.assertIn(str(100 * MIB), said)
        self.assertEqual(said[-4:], ["kept", "0", str(40 * MIB), "other"])

    def test_activation(self):
        said = self.lines(self.MAKE + self.FILES + """
            q lvcreate -Wn -n a -L 8M $G; q lvcreate -Wn -n b -L 8M $G; echo text | dd of=/dev/$G/a status=none
            q vgchange -an $G; dmsetup ls; test ! -e /dev/$G && echo away
            q vgchange -ay $G; head -c 4 /dev/$G/a; echo
            exec 3</dev/$G/a; lvchange -an $G/a 2>&1 | tail -1 || true; exec 3<&-
            q lvchange -pr $G/a; blockdev --getro /dev/$G/a; volumes lv_name,lv_attr""")
        self.assertIn("No devices found", said)
        self.assertEqual(said[said.index("away"):][:1] + said[-5:-4], ["away", "text"])
        self.assertIn("in use", said[-4])
        self.assertEqual(said[-3:], ["1", "a:-ri-a-----", "b:-wi-a-----"])
        # Another session finds the group on its disks.
        self.assertEqual(self.lines("vgchange -ay $G >/dev/null; head -c 4 /dev/$G/a")[-1], "text")


class Snapshots(Lvm):
    BEGIN = Lvm.MAKE + Lvm.FILES + """
        q lvcreate -n base -L 32M $G; mkfs.ext4 -q /dev/$G/base; put /dev/$G/base file old
        q lvcreate -s -n snap -L 16M $G/base
        put /dev/$G/base file new
        """

    def test_a_snapshot_keeps_what_was(self):
        said = self.lines(self.BEGIN + """
            volumes lv_name,origin,segtype,lv_attr | sort; dmsetup table | sed 's/.*: //' | cut -d' ' -f3 | sort
            show /dev/$G/base file; show /dev/$G/snap file
            e2fsck -fn /dev/$G/snap >/dev/null 2>&1; echo $?
            put /dev/$G/snap file own; show /dev/$G/base file; show /dev/$G/snap file
            test "$(volumes data_percent | grep -c '[1-9]')" -ge 1 && echo used
            q vgchange -an $G; q vgchange -ay $G; show /dev/$G/base file; show /dev/$G/snap file
            q lvextend -L +8M $G/snap; volumes lv_name,lv_size | sort
            q lvremove -y $G/snap; show /dev/$G/base file; dmsetup table | cut -d' ' -f1,4; dmsetup ls""")
        self.assertEqual(said[:-1], [
            "base::linear:owi-a-s---", "snap:base:linear:swi-a-s---",
            "linear", "linear", "snapshot", "snapshot-origin", "new", "old", "0", "new", "own", "used",
            "new", "own", "base:32.00", "snap:24.00", "new", f"{self.group}-base: linear"])

    def test_a_snapshot_is_merged(self):
        said = self.lines(self.BEGIN + """
            q lvconvert --merge -i 1 $G/snap >/dev/null
            volumes lv_name,segtype; show /dev/$G/base file; e2fsck -fn /dev/$G/base >/dev/null 2>&1; echo $?
            dmsetup table | cut -d' ' -f1,4""")
        self.assertEqual(said, ["base:linear", "old", "0", f"{self.group}-base: linear"])

    def test_a_merge_of_what_is_in_use_waits(self):
        said = self.lines(self.BEGIN + """
            exec 3</dev/$G/base; lvconvert --merge $G/snap 2>&1 | grep -c -e 'will occur\\|Delaying'; exec 3<&-
            q vgchange -an $G; q vgchange -ay $G; q lvchange --poll y $G || true
            for i in $(seq 100); do
              test "$(volumes lv_name | wc -l)" = 1 && break; sleep 0.1; q lvchange --poll y $G
            done
            volumes lv_name,segtype; show /dev/$G/base file""")
        self.assertEqual(said[-2:], ["base:linear", "old"])


class Users(Lvm):
    def test_without_root(self):
        testing.require("setpriv")
        if os.geteuid() != 0:
            self.skipTest("nobody to become")
        for folder, _, files in os.walk(self.dir):
            for name in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(name, 65534, 65534, follow_symlinks=False)
        # Without wiping, since there may be no FUSE for that user.
        script = """id -u; pvcreate -q $D/p0; vgcreate -q $G $D/p0; lvcreate -q -Zn -Wn -n v -L 8M $G
            blockdev --getsize64 /dev/$G/v || stat -L -c %F /dev/$G/v; dmsetup table; vgremove -y $G"""
        done = self.run_any("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", testing.lbd_binary(), "run",
                            "--disk", self.disks[0], "--", "sh", "-ec", script, env=self.env)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.splitlines()[0], "65534")
        self.assertIn(f"{self.group}-v: 0 16384 linear 512:0 2048", done.stdout.splitlines())


class Plain(Lvm):
    """What a user has to set: nothing, as root."""

    def test_without_any_configuration(self):
        if os.geteuid() != 0:
            self.skipTest("LVM's own folders are root's")
        for i, disk in enumerate(self.disks):
            os.rename(disk, self.path(f"dev/lbd-{os.getpid()}-{i}"))
            self.disks[i] = self.path(f"dev/lbd-{os.getpid()}-{i}")
        # So that the machine's own disks stay out of the test.
        self.configure(f'filter = ["a|^/dev/lbd-{os.getpid()}-|", "r|.*|"]')
        said = self.lines(f"""
            pvcreate -q /dev/lbd-{os.getpid()}-0; vgcreate -q $G /dev/lbd-{os.getpid()}-0
            lvcreate -n v -L 8M $G; mkfs.ext4 -q /dev/$G/v; e2fsck -fn /dev/$G/v >/dev/null 2>&1; echo $?
            pvs --noheadings -o pv_name; vgremove -y $G""")
        self.assertIn("0", said)
        self.assertEqual(said[-3:], [f"/dev/lbd-{os.getpid()}-0", 'Logical volume "v" successfully removed.',
                                     f'Volume group "{self.group}" successfully removed'])
        self.assertFalse(os.path.exists(f"/dev/{self.group}"))


if __name__ == "__main__":
    testing.main()
