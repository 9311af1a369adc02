# SPDX-License-Identifier: MIT
"""What LBD writes through its targets the kernel reads, with the same tables, to the same bytes."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "dm"))

import build_guest
import golden_test
import guest
import mapped
import testing

# Ciphers of the golden disks that differ in how a sector's place becomes an initialisation vector.
CIPHERS = ("aes-xts-plain64", "aes-xts-plain64-4096-large", "aes-cbc-essiv", "aes-65-cbc-lmk", "aes-cbc-tcw",
           "aes-cbc-elephant", "aes-cbc-benbi", "serpent-xts-plain64", "twofish-xts-plain64", "capi-cbc-essiv")

PRELUDE = """
set -eu
modprobe -a dm-mod
export DM_DISABLE_UDEV=1
"""


class Images(mapped.Case):
    def setUp(self):
        super().setUp()
        self.make_disk(4096)
        self.require_mount()
        self.remove_disks()
        self.pieces = []  # (image, its length in sectors)
        self.checks = []  # (name, table with pieces, digest)

    def take(self, sizes, script, tables):
        """Runs the script on new disks; then every table has to be read by the kernel as LBD reads it."""
        for size in sizes:
            self.make_disk(size)
        self.sh(script)
        for number, table in enumerate(tables):
            shown = self.sh(f"dmsetup create check --table '{table}'; sha256sum </dev/mapper/check").split()[0]
            for index in range(len(sizes)):
                table = table.replace(f"vd{chr(ord('a') + index)}", f"/dev/mapper/piece{len(self.pieces) + index}")
            self.checks.append((f"check{len(self.checks)}-{number}", table, shown))
        self.pieces += [pathlib.Path(disk).read_bytes() for disk in self.disks]
        self.remove_disks()

    def guest_script(self):
        lines, at = [PRELUDE], 0
        for number, piece in enumerate(self.pieces):
            lines.append(f"dmsetup create piece{number} --table '0 {len(piece) // 512} linear /dev/vda {at}'")
            at += len(piece) // 512
        for name, table, _ in self.checks:
            lines += [f"dmsetup create {name} --table '{table}'", f"sha256sum </dev/mapper/{name}",
                      f"dmsetup remove {name}"]
        return "\n".join(lines) + "\n"

    def test_the_kernel_reads_what_was_written(self):
        self.take([4 << 20] * 3, f"dmsetup create d --table '{golden_test.LINEAR}'; gen fill /dev/mapper/d 21 0 7602",
                  [golden_test.LINEAR])
        self.take([4 << 20] * 2,
                  f"dmsetup create d --table '{golden_test.STRIPED_2}'; gen fill /dev/mapper/d 22 0 14336",
                  [golden_test.STRIPED_2])
        for name, table, size, _ in golden_test.crypt_tables():
            if name in CIPHERS:
                self.take([size], f"dmsetup create d --table '{table}'; gen fill /dev/mapper/d 23 0 1024", [table])
        for chunk in (8, 32):
            self.take([8 << 20] * 2, f"""gen fill vda 24 0 16384
                dmsetup create org --table '0 16384 snapshot-origin vda'
                dmsetup create snap --table '0 16384 snapshot vda vdb P {chunk}'
                dmsetup load org --table '0 16384 snapshot-origin vda'; dmsetup resume org
                gen scatter /dev/mapper/snap 25 {chunk} 300 7 5 1; gen scatter /dev/mapper/org 26 {chunk} 200 13 2 4""",
                      [f"0 16384 snapshot vda vdb P {chunk}", f"0 16384 snapshot-merge vda vdb P {chunk}"])
        self.take([8 << 20] * 2, """gen fill vda 27 0 16384
            dmsetup create snap --table '0 16384 snapshot vda vdb P 8'
            gen scatter /dev/mapper/snap 28 8 614 7 5 1; dmsetup remove snap
            dmsetup create slow --table '0 16384 delay vda 0 0 vda 0 20'
            dmsetup create half --table '0 16384 snapshot-merge /dev/mapper/slow vdb P 8'
            sleep 0.5; dmsetup suspend --nolockfs half; dmsetup remove half""", ["0 16384 snapshot vda vdb P 8"])
        disk = self.path("pieces")
        pathlib.Path(disk).write_bytes(b"".join(self.pieces))
        try:
            result = guest.run(self.guest_script(), disks=[disk], timeout_s=200)
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        self.assertEqual(result.status, 0, result.output + result.console)
        read = [line.split()[0] for line in result.output.splitlines()]
        for (_, table, digest), found in zip(self.checks, read, strict=True):
            with self.subTest(table=table):
                self.assertEqual(found, digest)


if __name__ == "__main__":
    testing.main()
