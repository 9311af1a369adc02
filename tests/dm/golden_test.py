# SPDX-License-Identifier: MIT
"""Disks that the kernel wrote are read to its digests, and LBD writes the very bytes that the kernel wrote."""

import hashlib
import pathlib

import golden_images
import mapped
import testing

PLAIN = "973da1bf47ea323e34c665f3efa46d21364b86ef7f43802c00e29a1fc926cd56"  # of every crypt image

LINEAR = """0 1000 linear vdb 3000
1000 2001 linear vda 7
3001 500 linear vdb 0
3501 1 linear vdc 8191
3502 4000 linear vda 2048
7502 100 zero"""
STRIPED_2 = "0 14336 striped 2 16 vda 0 vdb 8"
STRIPED_3 = "0 21504 striped 3 128 vdc 16 vdd 0 vde 128"

# Chunk size: seed of the origin, then what the kernel's commands were, then digests of both sides.
SNAPSHOTS = {
    8: (2684354568, "scatter /dev/mapper/snap 2684355568 8 778 7 5 1", "fill /dev/mapper/snap 2684356568 24 72",
        "scatter /dev/mapper/org 2684357568 8 259 13 2 4", "fill /dev/mapper/org 2684358568 1024 777",
        "2c365e1fb8dbe7cf584799d41498343f2c3942c448e3b9a8ca467aacf176451e",
        "acdc5629965dca3fb93c52471346eb422ec2aa216fc7a067a20f3e54fd17fd97"),
    16: (2684354576, "scatter /dev/mapper/snap 2684355576 16 409 7 5 1", "fill /dev/mapper/snap 2684356576 48 144",
         "scatter /dev/mapper/org 2684357576 16 136 13 2 8", "fill /dev/mapper/org 2684358576 1024 777",
         "66c5f972574b86484688a809862738dbef8b7631007cfedf1b48a2b65482a50c",
         "651f0f335eb24eb6c2002154fcea456fc0149adbaf8a8a7c3649102892f732ee"),
    64: (2684354624, "scatter /dev/mapper/snap 2684355624 64 102 7 5 1", "fill /dev/mapper/snap 2684356624 192 576",
         "scatter /dev/mapper/org 2684357624 64 34 13 2 32", "fill /dev/mapper/org 2684358624 1024 777",
         "3f32b7f25e735100c0e5fdad4b374089726daaae0ef3db9cdec0748b4c29c4ae",
         "78a1d0fe8296bf15d93bed677652f67c38733153bea117af378c87715be2d5a3"),
}
MERGED = "25d584043c6a45918dffa2a025e9f1cc34ec03e632dce48ccc1b4be7605994f4"
WAIT_FOR_MERGE = """
for i in $(seq 300); do dmsetup status m | grep -q ' \\([0-9]*\\)/16384 \\1$' && break; sleep 0.1; done
dmsetup status m"""


def crypt_tables():
    """(name, table, bytes, digest of the ciphertext) of every encrypted disk the kernel made."""
    for line in (testing.SOURCE_DIR / "tests/golden/crypt.txt").read_text("ascii").splitlines():
        if not line.startswith("#"):
            name, table, size, digest = (word.strip() for word in line.split("|"))
            yield name, table.replace("/dev/vda", "vda"), int(size), digest


def content(path, size=None):
    return pathlib.Path(path).read_bytes()[:size]


class Golden(mapped.Case):
    def setUp(self):
        super().setUp()
        self.make_disk(4096)
        self.require_mount()
        self.remove_disks()

    def golden_disks(self, name, parts):
        for part in parts:
            self.make_disk(golden_images.load(f"{name}.{part}"))

    def digests(self, *tables):
        """The digest of a device of each table."""
        script = "".join(f"dmsetup create d --table '{table}'; sha256sum </dev/mapper/d; dmsetup remove d\n"
                         for table in tables)
        return [line.split()[0] for line in self.sh(script).splitlines()]

    def test_linear(self):
        self.golden_disks("linear", ("vda", "vdb", "vdc"))
        wanted = "683803f5c852e0d1033d72e674e66434f24fbf096312e213e79c4a2ee0cec426"
        self.assertEqual(self.digests(LINEAR), [wanted])
        images = [content(disk) for disk in self.disks]
        self.remove_disks()
        for _ in images:
            self.make_disk(4 << 20)
        self.sh(f"dmsetup create l --table '{LINEAR}'; gen fill /dev/mapper/l 2684354870 0 7602")
        self.assertEqual([content(disk) == image for disk, image in zip(self.disks, images, strict=True)], [True] * 3)

    def test_striped(self):
        self.golden_disks("striped", ("vda", "vdb", "vdc", "vdd", "vde"))
        self.assertEqual(self.digests(STRIPED_2, STRIPED_3),
                         ["b5732f72e7bf91d13ef231cfb63c72d442a065a076c9fc4b4686f886d1c7f2e0",
                          "6df2a530fdba95d8a900ee8247969fbc64d9b714b1ea9f4f25e6816cd09446de"])
        images = [content(disk) for disk in self.disks]
        self.remove_disks()
        for _ in images:
            self.make_disk(4 << 20)
        self.sh(f"""dmsetup create s --table '{STRIPED_2}'; gen fill /dev/mapper/s 2684354862 0 14336
                    dmsetup create t --table '{STRIPED_3}'; gen fill /dev/mapper/t 2684354863 0 21504""")
        self.assertEqual([content(disk) == image for disk, image in zip(self.disks, images, strict=True)], [True] * 5)

    def test_snapshots_are_read(self):
        for chunk, (*_, org, snap) in SNAPSHOTS.items():
            with self.subTest(chunk=chunk):
                self.golden_disks(f"snapshot-P-{chunk}", ("origin", "cow"))
                self.assertEqual(self.digests(f"0 16384 snapshot vda vdb P {chunk}", "0 16384 snapshot-origin vda"),
                                 [snap, org])
                self.assertRegex(self.sh(f"""dmsetup create m --table '0 16384 snapshot-merge vda vdb P {chunk}'
                                             {WAIT_FOR_MERGE}; dmsetup remove m"""), "snapshot-merge (\\d+)/16384 \\1$")
                self.assertEqual(hashlib.sha256(content(self.disks[0])).hexdigest(), snap)
                self.remove_disks()

    def test_snapshots_are_written(self):
        for chunk, (seed, *commands, org, snap) in SNAPSHOTS.items():
            with self.subTest(chunk=chunk):
                self.make_disk(8 << 20)
                self.make_disk(8 << 20)
                lines = "\n".join(f"gen {command}" for command in commands)
                shown = self.sh(f"""gen fill vda {seed} 0 16384
                    dmsetup create org --table '0 16384 snapshot-origin vda'
                    dmsetup suspend org
                    dmsetup create snap --table '0 16384 snapshot vda vdb P {chunk}'
                    dmsetup resume org
                    {lines}
                    sha256sum </dev/mapper/org; sha256sum </dev/mapper/snap""")
                self.assertEqual([line.split()[0] for line in shown.splitlines()], [org, snap])
                self.assertTrue(content(self.disks[1]) == golden_images.load(f"snapshot-P-{chunk}.cow"),
                                "the store is not the kernel's to the byte")
                self.remove_disks()

    def test_a_merge_goes_on(self):
        self.golden_disks("snapshot-merge-half-8", ("origin", "cow"))
        shown = self.sh(f"""dmsetup create m --table '0 16384 snapshot-merge vda vdb P 8'
            sha256sum </dev/mapper/m
            {WAIT_FOR_MERGE}; dmsetup remove m""").splitlines()
        self.assertEqual(shown[0].split()[0], MERGED)
        self.assertEqual(shown[1], "0 16384 snapshot-merge 16/16384 16")
        self.assertEqual(hashlib.sha256(content(self.disks[0])).hexdigest(), MERGED)
        self.assertTrue(content(self.disks[1]) == golden_images.load("snapshot-merge-half-8.cow-after-merge"))

    def test_crypt(self):
        script, wanted = "", []
        for number, (name, table, size, digest) in enumerate(crypt_tables()):
            if name == "adiantum":  # neither library has it
                continue
            script += (f"dmsetup create c{number} --table '{table}'; gen fill /dev/mapper/c{number} 2684354960 0 1024\n"
                       f"dmsetup remove c{number}; head -c {size} vda | sha256sum\n"
                       f"dmsetup create c{number} --table '{table}'; sha256sum </dev/mapper/c{number}\n"
                       f"dmsetup remove c{number}; head -c 786432 /dev/zero >vda\n")
            wanted += [digest, PLAIN]
        self.make_disk(786432)
        self.assertEqual([line.split()[0] for line in self.sh(script).splitlines()], wanted)


if __name__ == "__main__":
    testing.main()
