# SPDX-License-Identifier: MIT
"""A daemon's devices as files of a folder, worked on by programs that know nothing of LBD."""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import subprocess
import threading
import time
import unittest

import testing

MIB = 1 << 20


def require_fuse():
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        raise unittest.SkipTest(f"/dev/fuse: {error.strerror}") from None


def pattern(size, seed):
    return random.Random(seed).randbytes(size)


class Mounts(testing.Case):

    def setUp(self):
        super().setUp()
        require_fuse()
        self.folder = self.path("devices")
        os.mkdir(self.folder)
        self.environment = dict(os.environ, LBD_RUNTIME_DIR=self.path("run"))
        os.mkdir(self.path("run"), 0o700)
        self.daemon = self.start_daemon()
        self.lbd("mount", self.folder)

    def start_daemon(self):
        daemon = self.start([testing.lbd_binary(), "daemon"], env=self.environment)

        def answers():
            """The socket of a daemon that was killed may answer a moment longer."""
            info = self.run_any(testing.lbd_binary(), "info", "--json", "--socket", self.path("run/lbd.sock"))
            return info.returncode == 0 and json.loads(info.stdout)["pid"] == daemon.pid

        daemon.wait_ready(answers)
        return daemon

    def lbd(self, *args, **options):
        return self.run_ok(testing.lbd_binary(), *args, env=self.environment, **options)

    def lbd_fails(self, *args, **options):
        return self.run_fail(testing.lbd_binary(), *args, env=self.environment, **options)

    def device(self, name, *lines):
        self.lbd("device", "create", name, "--table", "\n".join(lines))
        return os.path.join(self.folder, name)

    def memory(self, name, size):
        return self.device(name, f"0 {size // 512} linear mem:{size} 0")

    def plain(self, name, size):
        """A sparse file, and a device that is it."""
        path = self.path(name + ".img")
        with open(path, "wb") as out:
            out.truncate(size)
        return path, self.device(name, f"0 {size // 512} linear {path} 0")


class Bytes(Mounts):

    def test_dd_writes_and_reads_with_and_without_the_page_cache(self):
        size = 24 * MIB
        device = self.memory("disk", size)
        for number, flags in enumerate(([], ["oflag=direct", "iflag=direct"], ["conv=notrunc,fsync"])):
            content = pattern(size, number)
            source = self.path("content")
            pathlib.Path(source).write_bytes(content)
            given = [flag for flag in flags if not flag.startswith("iflag")]
            self.run_ok("dd", f"if={source}", f"of={device}", "bs=1M", *given)
            got = subprocess.run(
                ["dd", f"if={device}", "bs=1M", *[flag for flag in flags if flag.startswith("iflag")]],
                capture_output=True, check=True).stdout
            self.assertEqual(got, content)
        too_much = self.run_fail("dd", "if=/dev/zero", f"of={device}", "bs=1M", "count=30", "oflag=direct")
        self.assertIn("No space left on device", too_much.stderr)
        self.assertEqual(os.stat(device).st_size, size)

    def test_small_and_odd_pieces(self):
        size = 3 * MIB + 512
        device = self.memory("disk", size)
        model = bytearray(size)
        draw = random.Random(1)
        with open(device, "r+b", buffering=0) as file:
            for _ in range(400):
                at = draw.randrange(size)
                piece = draw.randbytes(min(draw.randrange(1, 5000), size - at))
                os.pwrite(file.fileno(), piece, at)
                model[at:at + len(piece)] = piece
        self.assertEqual(hashlib.sha256(pathlib.Path(device).read_bytes()).hexdigest(),
                         hashlib.sha256(model).hexdigest())

    def test_memory_mappings(self):
        device = self.memory("disk", 4 * MIB)
        with open(device, "r+b") as file, mmap.mmap(file.fileno(), 4 * MIB) as mapping:
            mapping[100_000:100_005] = b"hello"
            mapping.flush()
        descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
        self.addCleanup(os.close, descriptor)
        block = mmap.mmap(-1, 8192)
        self.assertEqual(os.preadv(descriptor, [block], 98304), 8192)
        self.assertEqual(block[1696:1701], b"hello")

    def test_fio_verifies_what_it_wrote(self):
        testing.require("fio")
        device = self.memory("disk", 16 * MIB)
        for engine, direct in (("libaio", 1), ("io_uring", 1), ("psync", 0), ("mmap", 0)):
            with self.subTest(engine=engine):
                self.run_ok("fio", "--name=verify", f"--filename={device}", f"--ioengine={engine}",
                            f"--direct={direct}", "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16",
                            "--size=16m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
                            "--allow_file_create=0", "--fallocate=none", f"--aux-path={self.dir}")

    def test_a_file_system_lives_in_a_file_of_the_folder(self):
        testing.require("mkfs.ext4", "e2fsck", "debugfs")
        path, device = self.plain("disk", 64 * MIB)
        self.run_ok("/sbin/mkfs.ext4", "-q", "-F", device)
        source = self.path("source")
        pathlib.Path(source).write_bytes(pattern(5 * MIB, 3))
        self.run_ok("/sbin/debugfs", "-w", "-R", f"write {source} copy", device)
        self.run_ok("/sbin/debugfs", "-R", f"dump copy {self.path('back')}", device)
        self.assertEqual(pathlib.Path(self.path("back")).read_bytes(), pattern(5 * MIB, 3))
        self.run_ok("/sbin/e2fsck", "-fn", device)
        self.run_ok("/sbin/e2fsck", "-fn", path)

    def test_holes_are_punched_zeroed_and_found(self):
        path, device = self.plain("disk", 8 * MIB)
        plain = self.path("plain")
        pathlib.Path(plain).write_bytes(pattern(8 * MIB, 4))
        shutil.copyfile(plain, path)
        for arguments in (["-p", "-o", str(MIB), "-l", str(2 * MIB)], ["-z", "-o", "5000", "-l", "70000"],
                          ["-p", "-o", str(7 * MIB + 100), "-l", str(4 * MIB)]):
            self.run_ok("fallocate", *arguments, device)
            self.run_ok("fallocate", *arguments, plain)
        self.run_ok("cmp", device, plain, "-n", str(8 * MIB))
        with open(device, "rb") as file:
            self.assertEqual(os.lseek(file.fileno(), 500_000, os.SEEK_HOLE), MIB)
            self.assertEqual(os.lseek(file.fileno(), MIB, os.SEEK_DATA), 3 * MIB)
        self.assertLess(os.stat(path).st_blocks * 512, 8 * MIB - MIB)
        self.run_fail("fallocate", "-l", str(16 * MIB), device)
        self.run_fail("truncate", "-s", "0", device)
        self.assertEqual(os.stat(device).st_size, 8 * MIB)


class Control(Mounts):

    def test_files_follow_the_devices(self):
        device = self.memory("one", MIB)
        self.device("two", "0 8 zero")
        self.assertEqual(sorted(os.listdir(self.folder)), ["one", "two"])
        self.lbd("device", "rename", "one", "first")
        self.assertFalse(os.path.exists(device))
        self.assertEqual(os.stat(os.path.join(self.folder, "first")).st_size, MIB)
        self.lbd("device", "remove", "first")
        self.assertEqual(os.listdir(self.folder), ["two"])
        with self.assertRaises(PermissionError):
            os.rename(os.path.join(self.folder, "two"), device)
        touched = self.run_fail("touch", device)
        self.assertIn("Operation not permitted", touched.stderr)

    def test_a_device_in_use_is_busy_until_its_file_is_closed(self):
        device = self.memory("disk", MIB)
        for _ in range(10):
            with open(device, "rb") as file:
                file.read(4096)
                refused = self.lbd_fails("device", "remove", "disk")
                self.assertIn("unable to remove open device disk", refused.stderr)
                info = json.loads(self.lbd("mount", "--json").stdout)
                self.assertEqual(info[0]["open_files"], 1)
        with open(device, "rb") as file:
            file.read(4096)
        self.lbd("device", "remove", "disk")
        self.assertFalse(os.path.exists(device))

    def test_a_new_table_is_seen_by_who_has_the_file_open(self):
        first, device = self.plain("disk", MIB)
        pathlib.Path(first).write_bytes(b"1" * MIB)
        second = self.path("second.img")
        pathlib.Path(second).write_bytes(b"2" * (2 * MIB))
        with open(device, "rb", buffering=0) as file:
            self.assertEqual(os.pread(file.fileno(), 4096, 0), b"1" * 4096)
            self.lbd("device", "load", "disk", "--table", f"0 4096 linear {second} 0")
            self.lbd("device", "resume", "disk")
            self.assertEqual(os.fstat(file.fileno()).st_size, 2 * MIB)
            self.assertEqual(os.pread(file.fileno(), 4096, 2 * MIB - 4096), b"2" * 4096)
            testing.wait_until(lambda: os.pread(file.fileno(), 4096, 0) == b"2" * 4096,
                               "what was cached of the old table is forgotten")

    def test_read_only_devices(self):
        path = self.path("disk.img")
        pathlib.Path(path).write_bytes(bytes(MIB))
        self.lbd("device", "create", "disk", "--read-only", "--table", f"0 2048 linear {path} 0")
        device = os.path.join(self.folder, "disk")
        self.assertEqual(os.stat(device).st_mode & 0o777, 0o400)
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_DIRECT):
            fd = os.open(device, flags)
            with self.assertRaises(PermissionError) as refused:
                os.pwrite(fd, mmap.mmap(-1, 4096), 0)
            self.assertEqual(refused.exception.errno, errno.EPERM)
            os.close(fd)
        self.assertEqual(pathlib.Path(device).read_bytes(), bytes(MIB))

    def test_a_suspended_device_holds_up_nobody_else(self):
        slow, fast = self.memory("slow", 4 * MIB), self.memory("fast", 4 * MIB)
        self.lbd("device", "suspend", "slow")
        results = []

        def work(number):
            with open(slow, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), bytes([number]) * 4096, number * 4096)
                results.append(os.pread(file.fileno(), 4096, number * 4096) == bytes([number]) * 4096)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for number in range(50):
            with open(fast, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), bytes(4096), number * 4096)
                os.fsync(file.fileno())
        self.assertEqual(results, [])
        self.lbd("device", "resume", "slow")
        for thread in threads:
            thread.join()
        self.assertEqual(results, [True] * 32)

    def test_a_folder_in_use_is_unmounted_by_force_only(self):
        file = os.open(self.memory("disk", MIB), os.O_RDWR)
        refused = self.lbd_fails("mount", "--unmount", self.folder)
        self.assertIn("is in use", refused.stderr)
        os.pwrite(file, b"still", 0)
        self.lbd("mount", "--unmount", "--force", self.folder)
        with self.assertRaises(OSError):
            os.pwrite(file, b"gone", 0)
        with contextlib.suppress(OSError):
            os.close(file)
        self.assertEqual(os.listdir(self.folder), [])
        self.lbd("device", "remove", "disk")
        self.lbd("mount", self.folder)
        self.lbd_fails("mount", self.folder)
        self.lbd("mount", "--unmount", self.folder)
        self.assertEqual(self.lbd("mount").stdout, "")

    def test_somebody_else_may_unmount(self):
        testing.require("umount")
        self.memory("disk", MIB)
        self.run_ok("umount", self.folder)
        testing.wait_until(lambda: self.lbd("mount").stdout == "", "the daemon has noticed")
        self.lbd("mount", self.folder)
        self.assertEqual(os.listdir(self.folder), ["disk"])

    def test_tables_do_not_lead_into_the_folder(self):
        self.memory("disk", MIB)
        os.symlink(os.path.join(self.folder, "disk"), self.path("link"))
        for path in (os.path.join(self.folder, "disk"), self.path("link"),
                     os.path.join(self.folder, "..", "devices", "disk")):
            refused = self.lbd_fails("device", "create", "top", "--table", f"0 8 linear {path} 0")
            self.assertIn("give the device's name", refused.stderr)
        self.device("top", "0 8 linear /dev/mapper/disk 0")

    def test_sockets_do_not_lead_into_the_folder(self):
        self.memory("disk", MIB)
        inside = os.path.join(self.folder, "socket")
        refused = self.lbd_fails("export", "disk", "--nbd", f"unix:{inside}")
        self.assertIn("shows its devices in", refused.stderr)
        refused = self.lbd_fails("device", "create", "top", "--table", f"0 8 linear nbd+unix:///?socket={inside} 0")
        self.assertIn("shows its devices in", refused.stderr)
        for gluster in (f"+unix:///volume/image?socket={inside}", f"://host/volume/image?logfile={inside}"):
            refused = self.lbd_fails("device", "create", "top", "--table", f"0 8 linear gluster{gluster} 0")
            self.assertIn("shows its devices in", refused.stderr)

    def test_a_folder_over_the_socket_of_an_export(self):
        self.memory("disk", MIB)
        os.mkdir(self.path("over"))
        socket = self.path("over/export.sock")
        self.lbd("export", "disk", "--nbd", f"unix:{socket}")
        self.lbd("mount", self.path("over"))
        self.lbd("export", "--remove", "disk")
        self.lbd("mount", "--unmount", self.path("over"))
        self.assertEqual(os.listdir(self.path("over")), [])

    def test_a_folder_over_a_disk_file_hides_it(self):
        os.mkdir(self.path("over"))
        disk = self.path("over/disk.img")
        pathlib.Path(disk).write_bytes(bytes(MIB))
        self.assertIn("disk.img", self.lbd("run", "--disk", disk, "--", "ls", "/sys/block").stdout)
        self.lbd("mount", self.path("over"))
        self.assertNotIn("disk.img", self.lbd("run", "--", "ls", "/sys/block").stdout)
        self.lbd("mount", "--unmount", self.path("over"))
        self.assertIn("disk.img", self.lbd("run", "--", "ls", "/sys/block").stdout)


class Ends(Mounts):

    def test_the_daemon_ends_while_files_are_open_and_requests_wait(self):
        self.memory("disk", MIB)
        self.memory("slow", MIB)
        self.lbd("device", "suspend", "slow")
        outcome = []

        def work():
            try:
                outcome.append(os.pwrite(slow, bytes(512), 0))
            except OSError as error:
                outcome.append(error.errno)

        # Closing a file of a dead mount may fail, too.
        slow, file = (os.open(os.path.join(self.folder, name), os.O_RDWR) for name in ("slow", "disk"))
        thread = threading.Thread(target=work)
        thread.start()
        os.pwrite(file, b"x", 0)
        time.sleep(0.1)
        self.daemon.signal(signal.SIGTERM)
        self.assertEqual(self.daemon.wait(), 0)
        with self.assertRaises(OSError):
            os.pwrite(file, b"y", 0)
        thread.join()
        self.assertEqual(len(outcome), 1)
        for descriptor in (slow, file):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_a_killed_daemon_has_left_is_taken_away(self):
        self.memory("disk", MIB)
        self.daemon.kill()
        with self.assertRaises(OSError):
            os.listdir(self.folder)
        self.daemon = self.start_daemon()
        self.lbd("mount", self.folder)
        self.assertEqual(os.listdir(self.folder), [])
        self.memory("again", MIB)
        self.assertEqual(os.listdir(self.folder), ["again"])
        self.assertEqual(self.daemon.stop(), 0)

    def test_the_folder_that_programs_use_is_taken_away_as_well(self):
        testing.require("dmsetup")
        script = "dmsetup create inner --table '0 64 zero' && dd if=/dev/mapper/inner bs=32k count=1 | wc -c"
        done = self.lbd("run", "--", "sh", "-c", script)
        self.assertEqual(done.stdout.split(), ["32768"])
        self.daemon.kill()
        self.daemon = self.start_daemon()
        self.lbd("run", "--", "true")
        left = list(pathlib.Path(self.path("run")).glob("mount-*"))
        self.assertEqual(left, [pathlib.Path(self.path(f"run/mount-{self.daemon.pid}"))])
        self.assertEqual(self.daemon.stop(), 0)
        self.assertEqual(list(pathlib.Path(self.path("run")).glob("mount-*")), [])


class Unprivileged(testing.Case):

    def test_no_root_is_needed(self):
        require_fuse()
        testing.require("setpriv", "fusermount3")
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if os.geteuid() != 0 or self.run_any(*nobody, "test", "-w", "/dev/fuse").returncode != 0:
            self.skipTest("cannot become a user who may open /dev/fuse")
        self.run_ok("chown", "65534:65534", self.dir)
        run, folder = self.path("run"), self.path("devices")
        self.run_ok(*nobody, "mkdir", "-m", "700", run, folder)
        environment = dict(os.environ, LBD_RUNTIME_DIR=run)
        lbd = [*nobody, testing.lbd_binary()]
        daemon = self.start([*lbd, "daemon"], env=environment,
                            ready=lambda: os.path.exists(run + "/lbd.sock"))
        self.run_ok(*lbd, "mount", folder, env=environment)
        self.run_ok(*lbd, "device", "create", "disk", "--table", "0 64 zero", env=environment)
        read = self.run_ok(*nobody, "wc", "-c", folder + "/disk")
        self.assertEqual(read.stdout.split()[0], "32768")
        self.run_ok(*lbd, "mount", "--unmount", folder, env=environment)
        self.run_ok(*lbd, "mount", folder, env=environment)
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    testing.main()
