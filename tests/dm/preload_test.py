# SPDX-License-Identifier: MIT
"""What the library of `lbd run` makes of paths, of the end of a disk, and of a thread's stack."""

import os
import pathlib
import subprocess

import mapped
import testing

MIB = 1 << 20


def programs():
    """lbd_calls, as words of a command: with the library loaded into it, and with it built in."""
    folder = pathlib.Path(testing.lbd_binary()).parent
    if not (folder / "lbd_calls").exists():
        raise testing.unittest.SkipTest("lbd_calls is not built")
    words = [[str(folder / "lbd_calls")]]
    if (folder / "lbd_calls_linked").exists():
        words.append(["env", "-u", "LD_PRELOAD", str(folder / "lbd_calls_linked")])
    return words


class Calls(mapped.Case):
    def test_a_disk_has_an_end(self):
        disk = self.make_disk(4 * MIB)
        for program in programs():
            done = self.under_lbd(*program, "end", disk)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
            self.assertEqual(os.stat(disk).st_size, 4 * MIB)

    def test_a_disk_of_the_kernel_has_the_same(self):
        testing.require("losetup")
        disk = self.make_disk(4 * MIB)
        made = self.run_any("losetup", "--find", "--show", disk, env=self.env)
        if made.returncode != 0:
            self.skipTest(f"no loop device here: {made.stderr}")
        device = made.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "--detach", device], env=self.env, check=False)
        done = self.run_any(*programs()[0], "end", device)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_calls_take_little_stack(self):
        disk = self.make_disk(MIB)
        self.require_mount()
        for program in programs():
            self.sh(f"""dmsetup create d --table '0 8 zero'; ln -s /dev/mapper/d link
                {" ".join(program)} stack /dev/mapper/d {disk} link; rm link""")

    def test_dd_meets_the_end(self):
        disk = self.make_disk(MIB)
        said = self.sh(f"""dd if=/dev/zero of={disk} bs=64k 2>&1 | grep error || true
            dd if=/dev/zero of={disk} bs=600k count=2 oflag=direct 2>&1 | grep error || true
            yes 2>&1 >> {disk} | cat || true; cp /bin/bash {disk} 2>&1 || true; stat -L -c %s {disk}""")
        full = f"error writing '{disk}': No space left on device"
        self.assertEqual(said.splitlines(), [
            f"dd: {full}", f"dd: {full}", "yes: standard output: No space left on device", f"cp: {full}", "0"])
        self.assertEqual(os.stat(disk).st_size, MIB)


class Paths(mapped.Case):
    """Names in /sys and /dev."""

    def setUp(self):
        super().setUp()
        for _ in range(2):
            self.make_disk(MIB)
        for disk in list(self.disks):
            fresh = f"{os.path.dirname(disk)}/lbd-{os.getpid()}-{os.path.basename(disk)}"
            os.rename(disk, fresh)
            self.disks[self.disks.index(disk)] = fresh
        self.names = [os.path.basename(disk) for disk in self.disks]
        self.script = f"""
            dmsetup create a --table '0 8 linear {self.names[0]} 0'
            dmsetup create b --table '0 8 linear /dev/mapper/a 0
            8 32 linear {self.names[1]} 0'
            """

    def lines(self, script):
        return self.sh(self.script + script).splitlines()

    def test_up_from_a_link_is_where_it_leads(self):
        said = self.lines(f"""
            cat /sys/dev/block/253:0/../dm-1/size /sys/block/dm-0/../dm-1/dm/name
            cat /sys/dev/block/253:1/slaves/dm-0/../{self.names[0]}/size
            cat /sys/block/dm-1/slaves/../../dm-0/dm/name /sys/block/dm-0/dm/../../../block/dm-1/dm/name
            cat /sys/block/dm-0/../../../../dev/block/253:1/dm/name
            test "$(cat /sys/block/dm-0/../../../../kernel/mm/hugepages/../../notes | wc -c)" -gt 0 && echo kernel
            cat /sys/dev/block/../block/253:0/size; cat /sys/dev/../block/dm-1/size""")
        self.assertEqual(said, ["40", "b", "2048", "a", "b", "b", "kernel", "8", "40"])

    def test_relations_lead_on(self):
        said = self.lines(f"""
            cat /sys/block/dm-1/slaves/dm-0/slaves/{self.names[0]}/size
            cat /sys/block/{self.names[0]}/holders/dm-0/holders/dm-1/dm/name
            readlink -f /sys/dev/block/253:1/slaves/dm-0""")
        self.assertEqual(said, ["2048", "b", "/sys/devices/virtual/block/dm-0"])

    def test_disks_are_in_dev(self):
        name = self.names[0]
        said = self.lines(f"""
            stat -c '%F %t:%T' /dev/{name}; ls /dev | grep -c -e '^{name}$' -e '^dm-1$'
            blockdev --getsz /dev/{name}; echo data | dd of=/dev/{name} 2>/dev/null; head -c 4 {name}; echo
            test ! -e /dev/{name}x && echo other
            ls -l /dev/ | grep ' {name}$' | cut -c1; cat < /dev/{name} | wc -c; : > /dev/{name}; echo $?""")
        self.assertEqual(said, ["block special file 200:0", "2", "2048", "data", "other", "b", str(MIB), "0"])
        self.assertFalse(os.path.exists(f"/dev/{name}"))

    def test_volumes_are_in_dev(self):
        group = f"vg-{os.getpid()}"
        mangled = group.replace("-", "--")
        said = self.sh(f"""
            dmsetup create {mangled}-one--two -u LVM-{'a' * 64} --table '0 8 zero'
            dmsetup create {mangled}-hidden -u LVM-{'b' * 64}-real --table '0 8 zero'
            stat -c '%F' /dev/{group} /dev/{group}/one-two; stat -L -c '%F %t:%T' /dev/{group}/one-two
            readlink /dev/{group}/one-two; readlink -f /dev/{group}/one-two; ls /dev/{group}
            test ! -e /dev/{group}/hidden && echo hidden; blockdev --getsz /dev/{group}/one-two
            ln -s ../mapper/x /dev/{group}/one-two; mkdir -p /dev/{group}; rm /dev/{group}/one-two; echo $?
            dmsetup remove_all; ls -d /dev/{group} 2>/dev/null || echo gone""").splitlines()
        device = f"/dev/mapper/{mangled}-one--two"
        self.assertEqual(said, [
            "directory", "symbolic link", "block special file fd:0", device, device, "one-two", "hidden", "8", "0",
            "gone"])


if __name__ == "__main__":
    testing.main()
