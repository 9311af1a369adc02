# SPDX-License-Identifier: MIT
"""File systems of the kernel on LBD's devices: flakey and delay do what they promise, snapshots keep origins whole."""

import concurrent.futures
import os
import pathlib

import scenarios
import testing

SECTORS = 131072  # 64 MiB

# What lies under the device in each phase of guest/faults.sh.
PHASES = {
    "drop_writes": "flakey {disk} 0 0 3600 1 drop_writes",
    "healthy": "linear {disk} 0",
    "error_writes": "flakey {disk} 0 0 3600 1 error_writes",
    "delay": "delay {disk} 0 0 {disk} 0 500",
    "snapshot": "snapshot {disk} {store} P 16",
    "without_snapshot": "linear {disk} 0",
}


class Faults(scenarios.KernelCase):
    def lbd(self, *argv):
        return self.run_ok(testing.lbd_binary(), *argv, "--socket", self.path("lbd.sock"), env=self.env)

    def test_file_systems_on_stacks(self):
        share = pathlib.Path(self.path("share"))
        for folder in (share, self.dir / "run"):
            folder.mkdir(mode=0o700)
        self.env = {**os.environ, "LBD_RUNTIME_DIR": self.path("run"), "XDG_STATE_HOME": self.path("run")}
        files = {"disk": self.path("disk.img"), "store": self.path("store.img")}
        for path in files.values():
            with open(path, "wb") as file:
                file.truncate(SECTORS * 512)
        self.start([testing.lbd_binary(), "daemon", "--socket", self.path("lbd.sock")], env=self.env,
                   ready=lambda: testing.accepts(self.path("lbd.sock")))
        port = testing.free_port()
        self.lbd("device", "create", "fs", "--table", f"0 {SECTORS} linear {files['disk']} 0")
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
                     "writes wait, reads do not", "a snapshot is written, its origin is not"):
            self.assertIn(line, said)


if __name__ == "__main__":
    testing.main()
