# SPDX-License-Identifier: MIT
"""Debian's cryptsetup under `lbd run`: plain, LUKS1 and LUKS2 on a disk file."""

import os

import mapped
import testing

MIB = 1 << 20
SECRET = "nobody should read this"
CHEAP = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000"


class Cryptsetup(mapped.Case):
    def setUp(self):
        super().setUp()
        testing.require("cryptsetup", "mkfs.ext4", "e2fsck", "debugfs")
        self.require_mount()
        # A name that no disk of the machine has: programs find it in /dev by its number.
        self.disk = self.path(f"dev/lbd-{os.getpid()}")
        os.rename(self.make_disk(32 * MIB), self.disk)
        self.disks = [self.disk]
        self.env["D"] = self.disk
        (self.dir / "dev/pass").write_text("secret", encoding="ascii")
        (self.dir / "dev/other").write_text("another", encoding="ascii")
        (self.dir / "dev/letter").write_text(SECRET, encoding="ascii")

    WRITE = """mkfs.ext4 -q /dev/mapper/c; debugfs -w -R 'write letter letter' /dev/mapper/c >/dev/null 2>&1
        """
    READ = """debugfs -R 'cat letter' /dev/mapper/c 2>/dev/null; echo
        e2fsck -fn /dev/mapper/c >/dev/null 2>&1; echo $?
        """

    def status(self, text):
        """`cryptsetup status` as a dictionary."""
        pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {name.strip(): value.strip() for name, value in pairs}

    def assert_hidden(self):
        with open(self.disk, "rb") as file:
            self.assertNotIn(SECRET.encode(), file.read())

    def test_plain(self):
        opened = "cryptsetup open --type plain -c aes-xts-plain64 -s 512 --key-file key $D c\n"
        (self.dir / "dev/key").write_bytes(os.urandom(64))
        said = self.sh(opened + self.WRITE + "cryptsetup status c; cryptsetup close c; dmsetup ls")
        told = self.status(said)
        self.assertIn("/dev/mapper/c is active", said)
        self.assertEqual((told["type"], told["cipher"], told["size"], told["device"]),
                         ("PLAIN", "aes-xts-plain64", "65536 sectors", f"/dev/lbd-{os.getpid()}"))
        self.assertEqual(said.splitlines()[-1], "No devices found")
        self.assertEqual(self.sh(opened + self.READ + "cryptsetup close c"), f"{SECRET}\n0\n")
        # The same by the table alone.
        key = (self.dir / "dev/key").read_bytes().hex()
        self.assertEqual(self.sh(f"""dmsetup create c --table '0 65536 crypt aes-xts-plain64 {key} 0 {self.disk} 0'
            {self.READ}"""), f"{SECRET}\n0\n")
        self.assert_hidden()

    def luks(self, version, options=""):
        said = self.sh(f"""
            cryptsetup luksFormat -q --type luks{version} {CHEAP} {options} $D pass
            cryptsetup isLuks $D && cryptsetup luksUUID $D >/dev/null && echo luks
            cryptsetup luksOpen --key-file pass $D c
            {self.WRITE} {self.READ} cryptsetup status c
            cryptsetup luksClose c; dmsetup ls""")
        self.assertEqual(said.splitlines()[:3], ["luks", SECRET, "0"])
        self.assertEqual(said.splitlines()[-1], "No devices found")
        self.assert_hidden()
        return self.status(said)

    def test_luks2(self):
        told = self.luks(2)
        self.assertEqual((told["type"], told["cipher"], told["key location"], told["mode"]),
                         ("LUKS2", "aes-xts-plain64", "dm-crypt", "read/write"))
        self.keys()

    def test_luks2_with_large_sectors_and_another_cipher(self):
        keyslot = "--keyslot-cipher aes-xts-plain64 --keyslot-key-size 512"
        self.luks(2, f"--sector-size 4096 -c serpent-xts-plain64 {keyslot}")

    def test_luks1(self):
        told = self.luks(1)
        self.assertEqual((told["type"], told["cipher"]), ("LUKS1", "aes-xts-plain64"))
        self.keys()

    def keys(self):
        """Keys of a container are added and removed; the data stays."""
        said = self.sh(f"""
            cryptsetup luksAddKey -q {CHEAP} --key-file pass $D other
            cryptsetup luksRemoveKey -q $D pass
            cryptsetup luksOpen --key-file pass $D c 2>&1 || echo refused
            cryptsetup open --key-file other $D c
            {self.READ}
            cryptsetup resize --key-file other --device-size 8M c; blockdev --getsize64 /dev/mapper/c
            cryptsetup close c""")
        self.assertEqual(said.splitlines()[-4:], ["refused", SECRET, "0", str(8 * MIB)])

    def test_the_kernels_and_qemus_eyes(self):
        testing.require("qemu-img", "qemu-io")
        self.luks(1)
        with open(self.path("plain"), "wb") as file:
            file.write(self.sh_bytes("cryptsetup luksOpen --key-file pass $D c; cat /dev/mapper/c"))
        secret = f"--object secret,id=s,file={self.path('dev/pass')}"
        read = self.path("read")
        self.run_ok("qemu-img", "convert", *secret.split(), "--image-opts", "-O", "raw",
                    f"driver=luks,key-secret=s,file.filename={self.disk}", read)
        with open(read, "rb") as theirs, open(self.path("plain"), "rb") as ours:
            self.assertTrue(theirs.read() == ours.read())

    def sh_bytes(self, script):
        self.sh(script + " > out")
        return (self.dir / "dev/out").read_bytes()

    def test_a_suspended_container_has_no_key(self):
        said = self.sh(f"""
            cryptsetup luksFormat -q --type luks2 {CHEAP} $D pass; cryptsetup luksOpen --key-file pass $D c
            {self.WRITE}
            cryptsetup luksSuspend c; dmsetup table --showkeys c | cut -d' ' -f5 | tr -d 0
            cryptsetup luksResume --key-file pass c; {self.READ} cryptsetup close c""")
        self.assertEqual(said.splitlines()[-2:], [SECRET, "0"])


if __name__ == "__main__":
    testing.main()
