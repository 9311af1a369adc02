# SPDX-License-Identifier: MIT
"""Random lives of a stack: load, live layers, restarts, kills, commits, flattening, and QEMU writing in between.

After every step the device holds what a plain model says, `qemu-img check` is clean for every layer, and QEMU
reads the same bytes from the chain of files. LBD_CAMPAIGN_SEEDS=N runs more lives than the two of the normal test.
"""

import os
import random

import interop
import testing
from interop import MIB
from load import Load

SIZE = 8 * MIB
STEPS = 8


class Life:
    """One stack and its model."""

    def __init__(self, case, seed):
        self.case, self.seed, self.rng = case, seed, random.Random(seed)
        self.base = case.data_file(f"base{seed}.img", SIZE, seed=seed)
        self.expected = interop.read_file(self.base)
        self.count, self.tops, self.server = 0, [], None
        self.with_base = True
        self.tops = [self.new_name()]

    def new_name(self):
        self.count += 1
        return self.case.path(f"life{self.seed}-{self.count}.qcow2")

    def layers(self):
        words = [word for top in self.tops for word in ("-E", top)]
        return words + (["-f", self.base] if self.with_base else [])

    def start(self):
        io = self.rng.choice(([], ["--io", "threads"], ["--reactors", "1"]))
        self.server = self.case.serve(*io, *self.layers())

    def stop(self):
        self.case.assertEqual(self.server.stop(), 0, self.server.output())

    # Steps: the server runs before and after each of them

    def load(self, between=None):
        work = Load(self.server.uri, self.rng.randrange(1 << 30), depth=self.rng.choice((1, 8, 32)), base=self.expected)
        for step in range(30):
            work.step()
            if between and step == 15:
                between()
        self.expected = work.finish()
        self.case.assertEqual(work.problems, [])

    def add_layer_under_load(self):
        top = self.new_name()
        self.load(between=lambda: self.case.lbd("add-layer", top, "--socket", self.server.control))
        self.tops.insert(0, top)

    def restart(self):
        self.stop()
        self.start()

    def kill(self):
        self.server.kill()  # all was flushed at the end of the load
        for top in self.tops:
            status = self.case.run_any("qemu-img", "check", top).returncode
            self.case.assertIn(status, (0, 3), f"{top}: more than leaks after a kill")
        self.start()

    def commit(self):
        if len(self.tops) < 2:
            return self.restart()
        self.stop()
        self.case.lbd("commit", "--remove", *self.layers())
        self.tops.pop(0)
        return self.start()

    def flatten(self):
        self.stop()
        self.case.lbd("flatten", *self.layers())
        self.tops, self.with_base = self.tops[:1], False
        self.start()

    def write_by_qemu(self):
        self.stop()
        content, commands = bytearray(self.expected), []
        for _ in range(5):
            start = self.rng.randrange(SIZE // 512) * 512
            length = min(SIZE - start, self.rng.randrange(1, 600) * 512)
            byte = self.rng.randrange(256)
            commands += ["-c", f"write -P {byte} {start} {length}" if byte else f"write -z -u {start} {length}"]
            content[start:start + length] = bytes([byte]) * length
        self.case.run_ok("qemu-io", *commands, self.tops[0])
        self.expected = bytes(content)
        self.start()

    def check(self, what):
        """Device, QEMU and model agree."""
        self.case.assertTrue(self.case.device_bytes(self.server.uri) == self.expected, f"{what}: the device is wrong")
        self.stop()
        for top in self.tops:
            self.case.assert_clean(top)
        out = self.case.path("by-qemu.raw")
        self.case.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.tops[0], out)
        self.case.assertTrue(interop.read_file(out) == self.expected, f"{what}: QEMU reads other bytes")
        self.start()

    def run(self):
        self.start()
        self.load()
        steps = (self.load, self.load, self.add_layer_under_load, self.add_layer_under_load, self.restart, self.kill,
                 self.commit, self.flatten, self.write_by_qemu)
        for number in range(STEPS):
            step = self.rng.choice(steps)
            step()
            self.check(f"seed {self.seed}, step {number}, {step.__name__}")
        self.stop()


class Campaign(interop.Case):
    def test_random_lives(self):
        testing.require("qemu-img", "qemu-io", "nbdcopy")
        testing.require_module("nbd")
        for seed in range(int(os.environ.get("LBD_CAMPAIGN_SEEDS", "2"))):
            with self.subTest(seed=seed):
                Life(self, seed).run()


if __name__ == "__main__":
    interop.main()
