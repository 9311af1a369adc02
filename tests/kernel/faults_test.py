# SPDX-License-Identifier: MIT
"""File systems of the kernel on LBD's devices: flakey and delay do what they promise, snapshots keep origins whole."""

import concurrent.futures
import os
import pathlib

import scenarios
import testing

SECTORS = 131072  # 64 MiB
KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

# What the file system stands on through all phases: crypt on stripes on two files, one behind a delay of nothing.
STACK = {
    "slow": f"0 {SECTORS // 2} delay {{one}} 0 0",
    "stripes": f"0 {SECTORS} striped 2 32 /dev/mapper/slow 0 {{two}} 0",
    "secret": f"0 {SECTORS // 2} crypt aes-xts-plain64 {KEY} 0 /dev/mapper/stripes 0\n"
              f"{SECTORS // 2} {SECTORS // 2} crypt aes-cbc-essiv:sha256 {KEY} 0 /dev/mapper/stripes {SECTORS // 2}",
}
DISK = "/dev/mapper/secret"

# What lies under the device in each phase of guest/faults.sh.
PHASES = {
    "drop_writes": f"flakey {DISK} 0 0 3600 1 drop_writes",
    "after_dropped": f"linear {DISK} 0",
    "error_writes": f"flakey {DISK} 0 0 3600 1 error_writes",
    "after_errors": f"linear {DISK} 0",
    "intervals": f"flakey {DISK} 0 1 1",
    "delay": f"delay {DISK} 0 0 {DISK} 0 500",
    "flush_delay": f"delay {DISK} 0 0 {DISK} 0 0 {DISK} 0 700",
    "snapshot": f"snapshot {DISK} {{store}} P 16",
    "without_snapshot": f"linear {DISK} 0",
}


class Faults(scenarios.KernelCase):
    def lbd(self, *argv):
        return self.run_ok(testing.lbd_binary(), *argv, "--socket", self.path("lbd.sock"), env=self.env)

    def test_file_systems_on_stacks(self):
        share = pathlib.Path(self.path("share"))
        for folder in (share, self.dir / "run"):
            folder.mkdir(mode=0o700)
        self.env = {**os.environ, "LBD_RUNTIME_DIR": self.path("run"), "XDG_STATE_HOME": self.path("run")}
        files = {name: self.path(f"{name}.img") for name in ("one", "two", "store")}
        for path in files.values():
            with open(path, "wb") as file:
                file.truncate(SECTORS * 512)
        self.start([testing.lbd_binary(), "daemon", "--socket", self.path("lbd.sock")], env=self.env,
                   ready=lambda: testing.accepts(self.path("lbd.sock")))
        port = testing.free_port()
        for name, table in STACK.items():
            self.lbd("device", "create", name, "--table", table.format(**files))
        self.lbd("device", "create", "fs", "--table", f"0 {SECTORS} linear {DISK} 0")
        self.lbd("export", "fs", "--nbd", f"tcp:127.0.0.1:{port}")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            client = pool.submit(self.in_guest, "faults", port, export="fs", share=share)
            for phase, table in PHASES.items():
                testing.wait_until(lambda name=phase: (share / f"{name}.ready").exists() or client.done(),
                                   f"the guest is ready for {phase}", timeout_s=120)
                if client.done():
                    break
                self.lbd("device", "load", "fs", "--table", f"0 {SECTORS} {table.format(**files)}")
                self.lbd("device", "resume", "fs")
                (share / phase).touch()
            said = client.result()
        for line in ("writes said to be done", "and lost, the rest is whole", "writes fail, reads do not",
                     "the file system was told, and is whole", "up and down by turns", "writes wait, reads do not",
                     "flushes wait", "a snapshot is written, its origin is not"):
            self.assertIn(line, said)


if __name__ == "__main__":
    testing.main()
