# SPDX-License-Identifier: MIT
"""What the interoperation tests share: data files, digests, and the judges' verdicts on an image."""

import hashlib
import json
import os
import random
import subprocess

import testing

MIB = 1 << 20


def pattern(seed, size):
    """Bytes of a fixed seed, without zero sectors."""
    return random.Random(seed).randbytes(size)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path):
    with open(path, "rb") as file:
        return file.read()


class Case(testing.Case):
    """testing.Case with images: self.data_file makes one, self.assert_clean has QEMU judge one."""

    def data_file(self, name, size, seed=1, holes=True):
        """A flat image of random data with (by default) holes: data, nothing, data, zeros, in 1 MiB pieces."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
            for number, offset in enumerate(range(0, size, MIB)):
                if not holes or number % 4 in (0, 2):
                    file.seek(offset)
                    file.write(pattern(seed * 1000 + number, min(MIB, size - offset)))
                elif number % 4 == 3:
                    file.seek(offset)
                    file.write(bytes(min(MIB, size - offset)))
        return path

    def tmpfs(self, size):
        """A folder that is a small memory file system; skips the test where none can be mounted."""
        folder = self.path("small")
        os.mkdir(folder)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "lbd-test", folder],
                              capture_output=True, check=False)
        if done.returncode:
            self.skipTest("cannot mount a tmpfs here")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False)
        return folder

    def lbd(self, *args, **options):
        """Runs an lbd command that must succeed; returns what it printed."""
        return self.run_ok(testing.lbd_binary(), *args, **options).stdout

    def lbd_fails(self, *args, names=(), **options):
        """Runs an lbd command that must fail with one line on stderr that contains all `names`."""
        done = self.run_fail(testing.lbd_binary(), *args, **options)
        lines = done.stderr.strip().splitlines()
        self.assertEqual(len(lines), 1, f"not one line: {done.stderr!r}")
        for name in names:
            self.assertIn(str(name), lines[0])
        self.assertEqual(done.stdout, "", "an error prints nothing on stdout")
        return done

    def assert_clean(self, image):
        """`qemu-img check` finds neither errors nor leaks."""
        done = self.run_any("qemu-img", "check", "--output=json", image)
        self.assertEqual(done.returncode, 0, f"qemu-img check {image}: {done.stdout}{done.stderr}")

    def assert_same_content(self, image, expected, image_format=None, expected_format="raw"):
        """QEMU reads the same bytes from both (files or URIs)."""
        formats = ["-F", expected_format] + (["-f", image_format] if image_format else [])
        self.run_ok("qemu-img", "compare", *formats, image, expected)

    def image_info(self, image, *options):
        return json.loads(self.run_ok("qemu-img", "info", "--output=json", *options, image).stdout)

    def device_bytes(self, uri):
        """The whole content of an export, read by nbdcopy."""
        out = self.path("device.raw")
        self.run_ok("nbdcopy", uri, out)
        return read_file(out)


main = testing.main
