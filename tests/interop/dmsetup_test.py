#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The real dmsetup, and shell and perl scripts around it, under `lbd run`: without root, on files."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

import testing

DISK_MIB = 16


class Dm(testing.Case):
    """Disk files vda, vdb ... and a runtime folder of its own."""

    disks = 2

    def setUp(self):
        super().setUp()
        testing.require("dmsetup", "blockdev")
        self.names = [f"vd{chr(ord('a') + i)}" for i in range(self.disks)]
        for name in self.names:
            with open(self.path(name), "wb") as file:
                file.truncate(DISK_MIB << 20)
        runtime = self.dir / "rt"
        runtime.mkdir(mode=0o700)
        self.env = {**os.environ, "LBD_RUNTIME_DIR": str(runtime), "LC_ALL": "C",
                    "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        for name in ("LBD_SOCKET", "LD_PRELOAD"):
            self.env.pop(name, None)

    def argv(self, *command):
        named = [word for name in self.names for word in ("--disk", self.path(name))]
        return [testing.lbd_binary(), "run", *named, "--", *command]

    def sh(self, script, status=0, shell="sh"):
        """Runs a script in the folder of the disks; returns what it printed on both streams."""
        done = subprocess.run(self.argv(shell, "-c", script), cwd=self.dir, env=self.env, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60, check=False)
        self.assertEqual(done.returncode, status, done.stdout)
        return done.stdout

    def lines(self, script, status=0):
        return self.sh(script, status).splitlines()

    def mounted(self):
        """Skips the test where devices cannot be files."""
        probe = "dmsetup create probe --table '0 8 zero' && head -c 1 /dev/mapper/probe >/dev/null"
        done = subprocess.run(self.argv("sh", "-c", probe), cwd=self.dir, env=self.env,
                              capture_output=True, timeout=60, check=False)
        if done.returncode:
            self.skipTest("devices cannot be mounted here")


class Verbs(Dm):
    def test_version_and_targets(self):
        out = self.lines("dmsetup version; dmsetup target-version linear; dmsetup targets")
        self.assertEqual(out[1], "Driver version:    4.47.0")
        self.assertEqual(out[2], "linear           v1.4.0")
        self.assertIn("zero             v1.1.0", out[3:])
        self.assertEqual(self.lines("dmsetup target-version nosuch", 1)[0],
                         "device-mapper: target-version ioctl on nosuch  failed: Invalid argument")

    def test_create_takes_tables_from_everywhere(self):
        (self.dir / "table").write_text("# two lines\n\n0 8 zero\n8 8 error\n")
        out = self.lines("""
            dmsetup create a --table '0 8 linear vda 8'
            dmsetup create b --table '0 8 zero
            8 16 error'
            dmsetup create c table
            echo '0 24 linear vdb 1' | dmsetup create d
            dmsetup create --concise 'e,,,ro,0 8 zero;f,UUID-f,7,rw,0 8 zero,8 8 error'
            dmsetup create g --notable
            dmsetup create h -u U-h -m 20 -j 253 -r --table '0 8 zero'
            dmsetup table; dmsetup ls; dmsetup info -c --noheadings -o name,uuid,attr,minor""")
        self.assertEqual([line for line in out if line.startswith("b: ")],
                         ["b: 0 8 zero ", "b: 8 16 error "])
        self.assertEqual(out[0], "a: 0 8 linear 512:0 8")
        self.assertIn("c: 8 8 error ", out)
        self.assertIn("d: 0 24 linear 512:1 1", out)
        self.assertIn("g: ", out)
        self.assertEqual(out[-8:], [
            "a::L--w:0", "b::L--w:1", "c::L--w:2", "d::L--w:3", "e::L--r:4", "f:UUID-f:L--w:7",
            "g::---w:5", "h:U-h:L--r:20"])

    def test_what_is_printed_can_be_loaded_again(self):
        out = self.lines("""
            dmsetup create a --table '0 8 linear vda 8'
            dmsetup table a > saved; dmsetup load a saved; dmsetup table --inactive a
            dmsetup table --concise a > one; dmsetup remove a; dmsetup create --concise "$(cat one)"
            dmsetup table a""")
        self.assertEqual(out, ["0 8 linear 512:0 8"] * 2)

    def test_suspend_load_clear_resume(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'
            dmsetup suspend --noflush --nolockfs a
            dmsetup load a --table '0 16 error'
            dmsetup info -c --noheadings -o name,attr a
            dmsetup clear a; dmsetup info -c --noheadings -o name,attr a
            dmsetup reload a --table '0 16 error'; dmsetup resume a; dmsetup table a
            dmsetup wipe_table a; dmsetup table a
            dmsetup load a --table '# nothing'""", 1)
        self.assertEqual(out, [
            "a:LIsw", "a:L-sw", "0 16 error ", "0 16 error ",
            "device-mapper: reload ioctl on a  failed: Invalid argument", "Command failed."])

    def test_removal(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'
            dmsetup create b --table '0 8 linear /dev/mapper/a 0'
            dmsetup remove a
            dmsetup remove --deferred a; dmsetup info a | grep State
            dmsetup message a 0 @cancel_deferred_remove; dmsetup info a | grep State
            dmsetup remove --force a
            dmsetup table a
            dmsetup remove --deferred a; dmsetup remove b; dmsetup ls
            dmsetup create a --table '0 8 zero'; dmsetup create b --table '0 8 linear /dev/dm-0 0'
            dmsetup remove_all; dmsetup ls""")
        self.assertEqual(out, [
            "device-mapper: remove ioctl on a  failed: Device or resource busy", "Command failed.",
            "State:             ACTIVE (DEFERRED REMOVE)", "State:             ACTIVE",
            "device-mapper: remove ioctl on a  failed: Device or resource busy", "Command failed.",
            "0 8 error ", "No devices found", "No devices found"])

    def test_retry_waits_for_others(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'
            dmsetup create b --table '0 8 linear /dev/mapper/a 0'
            (sleep 0.5; dmsetup remove b) &
            dmsetup remove --retry a; dmsetup ls""")
        self.assertEqual(out[-1], "No devices found")

    def test_names(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'; dmsetup rename a b; dmsetup rename b --setuuid U
            dmsetup info -c --noheadings -o name,uuid,events; dmsetup info -u U | head -1
            dmsetup info -j 253 -m 0 | head -1; dmsetup info /dev/mapper/b | head -1
            dmsetup create 'x y' --table '0 8 zero'; dmsetup ls; ls /dev/mapper; dmsetup mangle
            test -b /dev/mapper/b && stat -c '%F %t:%T' /dev/mapper/b /dev/dm-0""")
        self.assertEqual(out, [
            "b:U:2", *["Name:              b"] * 3, "b\t(253:0)", "x y\t(253:1)", "b", "control",
            r"x\x20y", "b: U: name and UUID already in correct form",
            r"x\x20y: [no UUID]: name already in correct form",
            *["block special file fd:0"] * 2])

    def test_dependencies(self):
        out = self.lines("""
            dmsetup create a --table '0 8 linear vda 0
            8 8 linear vdb 0'
            dmsetup create b --table '0 16 linear /dev/mapper/a 0'
            dmsetup deps b; dmsetup deps -o devname a; dmsetup deps -o blkdevname
            dmsetup ls --tree -o ascii; dmsetup ls --tree -o ascii,inverted,blkdevname
            dmsetup ls --target linear; dmsetup ls -o blkdevname
            dmsetup info -c --noheadings -o devnos_used,blkdevs_used,names_using_dev a""")
        self.assertEqual(out, [
            "1 dependencies\t: (253, 0)", "2 dependencies\t: (vdb) (vda)",
            "a: 2 dependencies\t: (vdb) (vda)", "b: 1 dependencies\t: (dm-0)",
            "b (253:1)", " `-a (253:0)", "    |- (512:1)", "    `- (512:0)",
            *(line for disk in (" <vdb> (512:1)", " <vda> (512:0)")
              for line in (disk, " `-a <dm-0> (253:0)", "    `-b <dm-1> (253:1)")),
            "a\t(253, 0)", "b\t(253, 1)", "a\t(dm-0)", "b\t(dm-1)", "512:1,512:0:vdb,vda:b"])

    def test_messages_and_waiting(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'
            dmsetup message a 0 hello
            dmsetup message a 8 hello
            dmsetup setgeometry a 10 16 63 0 && echo set
            (sleep 0.3; dmsetup rename a b) &
            dmsetup wait a; echo $?
            dmsetup wait b 0; echo $?
            (sleep 0.3; dmsetup remove b) &
            dmsetup wait b 1; echo $?
            dmsetup wait b""", 1)
        refused = ["device-mapper: message ioctl on a  failed: Invalid argument", "Command failed."]
        self.assertEqual(out, [
            *refused, *refused, "set", "0", "0", "0",
            "device-mapper: waitevent ioctl on b  failed: No such device or address",
            "Command failed."])

    def test_keys_are_shown_when_asked_for(self):
        key = "00112233445566778899aabbccddeeff"
        out = self.lines(f"""
            dmsetup create c --table '0 8 crypt aes-cbc-plain {key} 0 vda 0'
            dmsetup table c; dmsetup table --showkeys c; dmsetup suspend c
            dmsetup message c 0 key wipe; dmsetup table --showkeys c""")
        self.assertEqual(out, [f"0 8 crypt aes-cbc-plain {k} 0 512:0 0"
                               for k in ("0" * 32, key, "0" * 32)])

    def test_a_device_cannot_stand_on_itself(self):
        out = self.lines("""
            dmsetup create a --table '0 8 zero'
            dmsetup create b --table '0 8 linear /dev/mapper/a 0'
            dmsetup load a --table '0 8 linear /dev/mapper/b 0'
            dmsetup resume a; dmsetup table a; dmsetup clear a; dmsetup remove b a; dmsetup ls""")
        self.assertEqual(out, [
            "device-mapper: resume ioctl on a  failed: Too many levels of symbolic links",
            "Command failed.", "0 8 zero ", "No devices found"])

    def test_statistics_of_regions(self):
        self.mounted()
        out = self.lines("""
            dmsetup create d --table '0 2048 linear vda 0'
            dmsetup message d 0 @stats_create - /2; dmsetup message d 0 @stats_create 0+128 1 prog aux
            dd if=/dev/zero of=/dev/mapper/d bs=4096 count=1 oflag=direct status=none
            dmsetup message d 0 @stats_list; dmsetup message d 0 @stats_list prog
            dmsetup message d 0 @stats_print 0 | cut -d' ' -f1-8
            dmsetup message d 0 @stats_print_clear 1 7 2 | cut -d' ' -f1-8
            dmsetup message d 0 @stats_print 1 7 1 | cut -d' ' -f1-8
            dmsetup message d 0 @stats_delete 1; dmsetup message d 0 @stats_list
            dmsetup message d 0 @stats_print 1; dmsetup message d 0 @stats_create 0""", 1)
        self.assertEqual(out, [
            "0", "1", "0: 0+2048 1024 - -", "1: 0+128 1 prog aux", "1: 0+128 1 prog aux",
            "0+1024 0 0 0 0 1 0 8", "1024+1024 0 0 0 0 0 0 0",
            "7+1 0 0 0 0 1 0 1", "8+1 0 0 0 0 0 0 0", "7+1 0 0 0 0 0 0 0", "0: 0+2048 1024 - -",
            "device-mapper: message ioctl on d  failed: No such file or directory", "Command failed.",
            "device-mapper: message ioctl on d  failed: Invalid argument", "Command failed."])

    def test_dmstats(self):
        self.mounted()
        out = self.lines("""
            dmsetup create d --table '0 2048 linear vda 0
            2048 2048 linear vdb 0'
            dmsetup stats create --segments d
            dd if=/dev/mapper/d of=/dev/null bs=4096 count=4 skip=256 iflag=direct status=none
            dmsetup stats report --noheadings --separator : -o region_id,read_count,read_sector_count d
            dmsetup stats create --areas 3000 --precise d
            dmsetup stats print --clear --regionid 2 d | wc -l
            dmsetup stats delete --allregions d; dmsetup message d 0 @stats_list | wc -l""")
        self.assertEqual([line for line in out if ":" in line], [
            "d: Created new region with 1 area(s) as region ID 0",
            "d: Created new region with 1 area(s) as region ID 1", "0:0:0", "1:4:32", "0-1:4:32",
            "d: Created new region with 3000 area(s) as region ID 2"])
        self.assertEqual(out[-2:], ["2048", "0"], "areas of whole sectors")

    def test_long_answers(self):
        # More than the first buffer of 16 KiB holds.
        table = "\\n".join(f"{8 * i} 8 linear vda {8 * i}" for i in range(1000))
        out = self.lines(f"""printf '{table}\\n' | dmsetup create long; dmsetup table long | wc -l
            dmsetup table long | tail -1; dmsetup info long | grep targets""")
        self.assertEqual(out, ["1000", "7992 8 linear 512:0 7992", "Number of targets: 1000"])

    def test_wrong_tables_say_what_the_kernel_says(self):
        out = self.lines("dmsetup create e --table '8 8 zero'; dmsetup ls", 0)
        self.assertEqual(out, [
            "device-mapper: reload ioctl on e (253:0) failed: Invalid argument", "Command failed.",
            "No devices found"])
        self.assertIn("No such device", self.sh("dmsetup create e --table '0 8 linear nosuch 0'", 1))
        self.assertIn("minor number", self.sh("dmsetup create e -m 5 --table '0 8 zero'", 1))


class Programs(Dm):
    def test_exit_status_and_streams_are_the_programs(self):
        self.assertEqual(self.sh("cat; echo out; echo err >&2; exit 7", 7), "out\nerr\n")
        self.sh("kill -TERM $$", 128 + signal.SIGTERM)
        done = self.run_any(testing.lbd_binary(), "run", "/nonexistent/program", env=self.env)
        self.assertEqual(done.returncode, 127)
        done = self.run_any(testing.lbd_binary(), "run", "nosuchprogram", env=self.env)
        self.assertEqual((done.returncode, done.stderr),
                         (127, "lbd run: nosuchprogram: no such program\n"))
        self.assertEqual(os.listdir(self.env["LBD_RUNTIME_DIR"]),
                         ["sources"] if "sources" in os.listdir(self.env["LBD_RUNTIME_DIR"]) else [])

    def test_sigterm_reaches_the_program(self):
        marker = self.path("started")
        process = self.start(self.argv("sh", "-c", f"trap 'exit 5' TERM; touch {marker}; "
                                                   "while :; do sleep 0.05; done"), env=self.env,
                             ready=lambda: os.path.exists(marker))
        process.signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 5)

    def test_other_signals_are_as_they_were(self):
        def ignored(text):
            return int(text.split()[1], 16) & 0x7fffffff  # those above are the C library's own

        script = "grep SigIgn /proc/self/status"
        self.assertEqual(ignored(self.sh(script)), ignored(self.run_ok("sh", "-c", script).stdout))
        self.assertEqual(self.sh("yes | head -1"), "y\n")

    def test_what_a_killed_one_has_left_is_taken_away(self):
        def left():
            return list(pathlib.Path(self.env["LBD_RUNTIME_DIR"]).glob("run-*"))

        marker = self.path("started")
        process = self.start(self.argv("sh", "-c", f"touch {marker}; outer=$PPID; "
                                                   "while kill -0 $outer; do sleep 0.05; done"),
                             env=self.env, ready=lambda: os.path.exists(marker))
        process.kill()
        self.assertEqual(len(left()), 1)
        self.sh("true")
        self.assertEqual(left(), [])

    def test_programs_that_nothing_can_be_loaded_into_are_refused(self):
        static = next((p for p in ("/usr/sbin/ldconfig", "/sbin/ldconfig") if os.path.exists(p)), None)
        if static:
            done = self.run_any(testing.lbd_binary(), "run", static, "-p", env=self.env)
            self.assertEqual(done.returncode, 126)
            self.assertRegex(done.stderr, "linked statically|another kind of machine")

    def test_a_daemon_that_runs_is_used(self):
        socket = self.path("d.sock")
        self.start([testing.lbd_binary(), "daemon", "--socket", socket], env=self.env,
                   ready=lambda: testing.accepts(socket))
        self.env["LBD_SOCKET"] = socket
        self.sh("dmsetup create kept --table '0 8 linear vda 0'")
        self.assertEqual(self.sh("dmsetup ls"), "kept\t(253:0)\n")
        lbd = [testing.lbd_binary(), "device"]
        self.run_ok(*lbd, "create", "other", "--table", "0 8 zero", env=self.env)
        self.assertEqual(self.sh("dmsetup table other"), "0 8 zero \n")
        out = self.run_ok(testing.lbd_binary(), "dmsetup", "ls", env=self.env).stdout
        self.assertEqual(out, "kept\t(253:0)\nother\t(253:1)\n")

    def test_lbd_inside(self):
        out = self.sh(f"""{testing.lbd_binary()} device create a --table '0 8 zero'
            {testing.lbd_binary()} dmsetup table a; dmsetup remove a""")
        self.assertEqual(out.splitlines()[-1], "0 8 zero ")

    def test_without_root(self):
        if os.geteuid() != 0:
            self.skipTest("nobody to become")
        testing.require("setpriv")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        asked = subprocess.run([*nobody, "test", "-x", testing.lbd_binary()], check=False)
        if asked.returncode != 0:
            self.skipTest("others may not look into the build's folder")
        for path in (self.dir, *self.dir.iterdir()):
            os.chown(path, 65534, 65534)
        done = subprocess.run(
            [*nobody,
             *self.argv("sh", "-c", "id -u; dmsetup create d --table '0 8 linear vda 0' && dmsetup table")],
            cwd=self.dir, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.stdout, "65534\nd: 0 8 linear 512:0 0\n", done.stderr)

    def test_disks_are_block_devices(self):
        out = self.lines("""
            test -b vda && test ! -b table && stat -c '%F %s %t:%T' vda ./vdb
            blockdev --getsize vda; blockdev --getsize64 vda; blockdev --getss --getpbsz --getro vda
            blockdev --getra vda; blockdev --setra 512 vda; blockdev --getra vda
            blockdev --flushbufs vda; echo $?; wc -c < vda
            echo data > vda; head -c 4 vda; echo; stat -L -c %F /proc/self/fd/0 < vda
            ls -l vda | cut -c1; perl -e 'print -b "vda" ? "b" : "-", "\\n"'""")
        sectors, size = DISK_MIB << 11, DISK_MIB << 20
        self.assertEqual(out, [
            "block special file 0 200:0", "block special file 0 200:1", str(sectors), str(size),
            "512", "512", "0", "256", "512", "0", str(size), "data", "block special file", "b",
            "b"])
        self.assertEqual(os.stat(self.path("vda")).st_size, size, "opening for writing keeps it")

    def test_the_hosts_own_disks_stay_the_kernels(self):
        numbers = [n for n in os.listdir("/sys/dev/block") if not n.startswith("253:")]
        if not numbers:
            self.skipTest("no block devices here")
        script = "; ".join(f"cat /sys/dev/block/{n}/size; readlink /sys/dev/block/{n}" for n in numbers)
        # The kernel follows the link before it goes up.
        folder = f"/sys/dev/block/{numbers[0]}"
        script += f"; cat {folder}/../{os.path.basename(os.path.realpath(folder))}/dev"
        self.assertEqual(self.sh(script), self.run_ok("sh", "-c", script).stdout)

    def test_a_disk_of_the_machine_with_a_number_of_ours_is_not_seen(self):
        taken = [os.path.basename(os.path.realpath(f"/sys/dev/block/{n}"))
                 for n in os.listdir("/sys/dev/block") if n.startswith("253:")]
        out = self.lines("dmsetup create d --notable; dmsetup ls -o blkdevname; ls /sys/block")
        if not taken or re.search(r"\(2(?!53)\d\d:", out[0]):
            self.skipTest("the machine has no disk of the devices' major")
        self.assertEqual(out[0], "d\t(253:0)")
        self.assertFalse(set(taken) & set(out[1:]), out)

    def test_links_lead_to_devices(self):
        out = self.lines("""
            dmsetup create d --table '0 8 zero'; ln -s /dev/mapper/d link; ln -s link again
            stat -L -c %F link again; readlink -f again; test -b again && echo block""")
        self.assertEqual(out, ["block special file"] * 2 + ["/dev/mapper/d", "block"])

    def test_the_control_node_can_be_polled(self):
        script = self.path("poll.py")
        pathlib.Path(script).write_text("""
import fcntl, os, select, struct, subprocess
control = os.open("/dev/mapper/control", os.O_RDWR)
DM_DEV_ARM_POLL = 0xc138fd10
def arm():
    fcntl.ioctl(control, DM_DEV_ARM_POLL, struct.pack("=4I", 4, 0, 0, 312) + bytes(296))
def ready(timeout_s):
    return len(select.select([control], [], [], timeout_s)[0])
def dmsetup(*words):
    subprocess.run(["dmsetup", *words], check=True, stdout=subprocess.DEVNULL)
arm()
seen = [ready(0.1)]
dmsetup("create", "d", "--table", "0 8 zero")
seen += [ready(10), ready(0)]
arm()
seen.append(ready(0.1))
dmsetup("rename", "d", "e")
seen.append(ready(10))
arm()
dmsetup("info", "e")
seen.append(ready(0.1))
dmsetup("remove", "e")
print(*seen, ready(10))
""")
        self.assertEqual(self.sh(f"{sys.executable} {script}"), "0 1 1 0 1 0 1\n")

    def test_threads_and_children_share_nothing(self):
        script = self.path("many.py")
        pathlib.Path(script).write_text("""
import os, subprocess, threading
def work(n):
    for i in range(10):
        out = subprocess.run(["dmsetup", "create", f"t{n}", "--table", f"0 {8 * (i + 1)} zero"])
        assert out.returncode == 0
        assert os.stat(f"/dev/mapper/t{n}").st_rdev != 0
        subprocess.run(["dmsetup", "remove", f"t{n}"], check=True)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(subprocess.run(["dmsetup", "ls"], capture_output=True, text=True).stdout, end="")
""")
        self.assertEqual(self.sh(f"{sys.executable} {script}"), "No devices found\n")


class Examples(Dm):
    """The well-known uses of dmsetup in scripts."""

    disks = 3

    def setUp(self):
        super().setUp()
        self.mounted()

    def fill(self, name):
        data = b"".join(b"%s %07d\n" % (name.encode(), i) for i in range((DISK_MIB << 20) // 12 + 1))
        data = data[:DISK_MIB << 20]
        pathlib.Path(self.path(name)).write_bytes(data)
        return data

    def read(self, script):
        """What is in /dev/mapper/d after the script."""
        self.sh(script + "\ncat /dev/mapper/d > out")
        return pathlib.Path(self.path("out")).read_bytes()

    def test_identity(self):
        data = self.fill("vda")
        self.assertEqual(self.read("""#!/bin/sh
            echo "0 `blockdev --getsize vda` linear vda 0" | dmsetup create d"""), data)

    def test_two_devices_joined(self):
        data = self.fill("vda") + self.fill("vdb")
        self.assertEqual(self.read("""#!/bin/sh
            set -- vda vdb
            size1=`blockdev --getsize $1`
            size2=`blockdev --getsize $2`
            echo "0 $size1 linear $1 0
            $size1 $size2 linear $2 0" | dmsetup create d"""), data)

    def test_reversed_in_pieces_of_4_mib(self):
        data = self.fill("vda")
        script = pathlib.Path(self.path("reverse.pl"))
        script.write_text("""#!/usr/bin/perl -w
my $name = "d";
my $extent = 4 * 1024 * 2;
my $device = shift @ARGV;
my $size = `blockdev --getsize $device`;
my $pieces = int($size / $extent);
my $table = "";
for (my $i = 0; $i < $pieces; $i++) {
    $table .= $i * $extent . " $extent linear $device " . ($pieces - $i - 1) * $extent . "\\n";
}
open(my $to, "| dmsetup create $name") || die "dmsetup: $!";
print $to $table;
close($to) || die "dmsetup failed";
""")
        piece = 4 << 20
        turned = b"".join(data[at:at + piece] for at in range(len(data) - piece, -1, -piece))
        self.assertEqual(self.read("perl reverse.pl vda"), turned)

    def test_striped(self):
        for name in self.names:
            self.fill(name)
        out = self.read(r"""
            cat > stripe.pl <<'END'
            use strict;
            my $chunk = 128 * 2;
            my $min;
            for my $d (@ARGV) {
                my $size = `blockdev --getsize $d`;
                $min = $size if !defined($min) || $size < $min;
            }
            $min = int($min / $chunk) * $chunk;
            my $table = "0 " . $min * scalar(@ARGV) . " striped " . scalar(@ARGV) . " $chunk";
            $table .= " $_ 0" for @ARGV;
            system("echo $table | dmsetup create d") == 0 || die;
END
            perl stripe.pl vda vdb vdc""")
        disks = [pathlib.Path(self.path(n)).read_bytes() for n in self.names]
        chunk = 128 << 10
        wanted = b"".join(d[at:at + chunk] for at in range(0, DISK_MIB << 20, chunk) for d in disks)
        self.assertEqual(out, wanted)

    def test_delay(self):
        data = self.fill("vda")
        began = time.monotonic()
        self.assertEqual(self.read("""#!/bin/sh
            dmsetup create d --table "0 `blockdev --getsize vda` delay vda 0 300"
            dd if=/dev/mapper/d of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null
            dmsetup status d >status; dmsetup table d >table
            dmsetup load d --table "0 `blockdev --getsize vda` delay vda 0 0"; dmsetup resume d"""), data)
        self.assertGreater(time.monotonic() - began, 0.3)
        self.assertEqual(pathlib.Path(self.path("status")).read_text(), f"0 {DISK_MIB << 11} delay 0 0 0\n")
        self.assertEqual(pathlib.Path(self.path("table")).read_text(), f"0 {DISK_MIB << 11} delay 512:0 0 300\n")

    def test_delayed_writes_go_elsewhere(self):
        # Reads from one disk, writes to another, with other offsets: six words.
        for name in ("vda", "vdb"):
            self.fill(name)
        old = pathlib.Path(self.path("vda")).read_bytes()[2048 * 512:][:4096]
        began = time.monotonic()
        out = self.lines("""
            set -- vda vdb
            dmsetup create d --table "0 4096 delay $1 2048 0 $2 4096 400"
            dd if=/dev/zero of=/dev/mapper/d bs=4096 count=1 oflag=direct 2>/dev/null; echo $?
            dd if=/dev/mapper/d of=read bs=4096 count=1 iflag=direct 2>/dev/null; echo $?""")
        self.assertEqual(out, ["0", "0"])
        self.assertGreater(time.monotonic() - began, 0.4)
        self.assertEqual(pathlib.Path(self.path("read")).read_bytes(), old)
        self.assertEqual(pathlib.Path(self.path("vda")).read_bytes()[2048 * 512:][:4096], old)
        self.assertEqual(pathlib.Path(self.path("vdb")).read_bytes()[4096 * 512:][:4096], bytes(4096))

    def test_crypt(self):
        out = self.lines("""
            key=babebabebabebabebabebabebabebabe
            dmsetup create d --table "0 `blockdev --getsize vda` crypt aes-cbc-essiv:sha256 $key 0 vda 0"
            echo secret | dd of=/dev/mapper/d conv=notrunc 2>/dev/null; sync /dev/mapper/d
            head -c 6 /dev/mapper/d; echo; grep -c secret vda; dmsetup remove d; echo $?""")
        self.assertEqual(out, ["secret", "0", "0"])

    def test_sparse_10_tb(self):
        out = self.lines("""
            TEN=`expr 10 \\* 1024 \\* 1024 \\* 1024 \\* 2`
            echo "0 $TEN zero" | dmsetup create zeros
            echo "0 $TEN snapshot /dev/mapper/zeros vda p 128" | \\
                dmsetup create d
            blockdev --getsize64 /dev/mapper/d
            echo far | dd of=/dev/mapper/d bs=1M seek=9000000 conv=notrunc 2>/dev/null
            dd if=/dev/mapper/d bs=1M skip=9000000 count=1 2>/dev/null | tr -d '\\0'
            dd if=/dev/mapper/d bs=1M skip=8999999 count=1 2>/dev/null | cmp -n 1048576 - /dev/zero; echo $?
            dmsetup status d
            # As much as the store holds can be written, and not more.
            dd if=/dev/zero of=/dev/mapper/d bs=1M count=32 oflag=direct 2>&1 | grep -o 'Input/output error'
            dmsetup status d; dmsetup remove d; dmsetup remove zeros; echo $?""")
        self.assertEqual(out, [str(10 << 40), "far", "0", f"0 {10 << 31} snapshot 384/32768 256",
                               "Input/output error", f"0 {10 << 31} snapshot Invalid", "0"])

    def test_a_file_system(self):
        testing.require("mkfs.ext4", "e2fsck", "debugfs")
        out = self.lines("""
            dmsetup create d --table "0 16384 linear vda 0
            16384 16384 linear vdb 128"
            mkfs.ext4 -q /dev/mapper/d && echo made
            echo hello > file; debugfs -w -R 'write file file' /dev/mapper/d 2>/dev/null >/dev/null
            e2fsck -fn /dev/mapper/d >/dev/null 2>&1; echo $?
            debugfs -R 'cat file' /dev/mapper/d 2>/dev/null; blkid -p -o value -s TYPE /dev/mapper/d
            mkfs.ext4 -q vda 2>&1 | grep -c 'in use'; dmsetup remove d; echo $?""")
        self.assertEqual(out, ["made", "0", "hello", "ext4", "1", "0"])

    def test_an_open_device_keeps_being_one(self):
        testing.require("hexdump")
        out = self.lines(r"""
            dmsetup create d --table '0 2048 linear vda 8'
            exec 3<>/dev/mapper/d
            dmsetup rename d e; stat -L -c '%F %t:%T' /dev/fd/3 /proc/self/fd/3
            echo text >&3; hexdump -n 4 -e '4/1 "%c" "\n"' /dev/mapper/e
            dmsetup remove e; exec 3>&-; dmsetup remove e; dmsetup ls""")
        self.assertEqual(out, [
            *["block special file fd:0"] * 2, "text",
            "device-mapper: remove ioctl on e  failed: Device or resource busy", "Command failed.",
            "No devices found"])

    def test_dd_and_what_it_asks_of_devices(self):
        out = self.lines("""
            dmsetup create d --table "0 2048 linear vda 8"
            dd if=/dev/urandom of=new bs=64k count=16 2>/dev/null
            dd if=new of=/dev/mapper/d bs=64k oflag=direct 2>/dev/null; cmp new /dev/mapper/d; echo $?
            dd if=/dev/zero of=/dev/mapper/d bs=1M count=2 2>&1 | head -1
            blkdiscard -z /dev/mapper/d; echo $?; cmp -n 1048576 /dev/zero /dev/dm-0; echo $?
            : > /dev/mapper/d; echo $?; blockdev --getsize64 /dev/mapper/d
            echo x > /dev/mapper/nosuch""", 2)
        self.assertEqual(out[:-1], [
            "0", "dd: error writing '/dev/mapper/d': No space left on device", "0", "0", "0",
            "1048576"])
        self.assertTrue(re.search("nosuch", out[-1]))


if __name__ == "__main__":
    testing.main()
