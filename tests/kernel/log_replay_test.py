# SPDX-License-Identifier: MIT
"""A journaling file system of the kernel on log-writes: whole in every state that a power cut could have left."""

import concurrent.futures
import os
import pathlib

import scenarios
import testing

SECTORS = 65536  # 32 MiB
PLACES = ["made"] + [f"round-{number}" for number in range(1, 6)]

# Power is back: the journal is replayed, and then nothing is wrong.
CHECK = """cp --sparse=always copy.img state.img
/sbin/e2fsck -fp state.img >>checked 2>&1 || [ $? = 1 ] || exit 9
/sbin/e2fsck -fn state.img >>checked 2>&1 && echo state >>states"""


class LogReplay(scenarios.KernelCase):
    def lbd(self, *argv):
        return self.run_ok(testing.lbd_binary(), *argv, env=self.env).stdout

    def record(self):
        """Leaves data.img and log.img of the guest's rounds, with a mark at each place."""
        share = pathlib.Path(self.path("share"))
        for folder in (share, self.dir / "run"):
            folder.mkdir(mode=0o700)
        self.env = {**os.environ, "LBD_RUNTIME_DIR": self.path("run"), "XDG_STATE_HOME": self.path("run")}
        files = {"disk": self.path("data.img"), "log": self.path("log.img"), "copy": self.path("copy.img")}
        for name, path in files.items():
            with open(path, "wb") as file:
                file.truncate(SECTORS * 512 * (16 if name == "log" else 1))
        self.start([testing.lbd_binary(), "daemon"], env=self.env,
                   ready=lambda: testing.accepts(self.path("run/lbd.sock")))
        port = testing.free_port()
        self.lbd("device", "create", "fs", "--table", f"0 {SECTORS} log-writes {files['disk']} {files['log']}")
        self.lbd("export", "fs", "--nbd", f"tcp:127.0.0.1:{port}")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            client = pool.submit(self.in_guest, "journal", port, export="fs", share=share)
            for place in PLACES:
                testing.wait_until(lambda name=place: (share / f"{name}.ready").exists() or client.done(),
                                   f"the guest is at {place}", timeout_s=120)
                if client.done():
                    break
                self.lbd("device", "message", "fs", "0", "mark", place)
                (share / place).touch()
            self.assertIn("five rounds", client.result())
        self.assertNotIn("logging_disabled", self.lbd("device", "status", "fs"))
        self.lbd("export", "fs", "--remove")
        self.lbd("device", "remove", "fs")

    def replay(self, *words):
        self.run_ok("env", "-C", self.path(""), testing.lbd_binary(), "replay-log", "--log", "log.img", "--replay",
                    "copy.img", *words)

    def content(self, name):
        return self.run_ok("/sbin/debugfs", "-R", f"cat {name}", self.path("state.img")).stdout

    def test_every_flush_is_a_state_that_e2fsck_mends_from_the_journal(self):
        testing.require("e2fsck", "debugfs")
        self.record()
        before = "made"
        self.replay("--end-mark", before)
        for number, place in enumerate(PLACES[1:], 1):
            self.replay("--start-mark", before, "--end-mark", place, "--fsck", CHECK, "--check", "flush")
            # What was synced before the mark is there.
            self.run_ok("sh", "-c", f"cd {self.path('')} && {CHECK}")
            for file in (3, 17, 30):
                wanted = "".join(f"{n}\n" for n in range(file, file + 201))
                self.assertEqual(self.content(f"{number}/{file}"), wanted)
            self.assertEqual(self.content(f"{number}/moved").split()[0], "1")
            self.assertEqual(self.content(f"{number}/2"), "")
            self.assertEqual(self.content("again").split()[0], str(number))
            before = place
        self.replay("--start-mark", before)
        with open(self.path("copy.img"), "rb") as copy, open(self.path("data.img"), "rb") as data:
            self.assertTrue(copy.read() == data.read(), "the whole log gives the device as it is")
        self.assertGreater(len((self.dir / "states").read_text().split()), 20)


if __name__ == "__main__":
    testing.main()
