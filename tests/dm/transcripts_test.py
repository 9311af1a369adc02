# SPDX-License-Identifier: MIT
"""The real dmsetup under `lbd run` says, to the byte, what it said to the kernel (tests/golden/transcripts).

Device numbers of disks are LBD's own. What a failed command made the kernel log is in LBD's log, in order.
"""

import os
import pathlib
import re

import testing
import transcripts

FOLDER = testing.SOURCE_DIR / "tests/golden/transcripts"


def logged_by(commands):
    """The lines of the kernel's log that LBD's has to have: those of failed commands."""
    return [line for command in commands if command.status for line in command.logged]


class Transcripts(testing.Case):
    def setUp(self):
        super().setUp()
        testing.require("dmsetup")
        generator = pathlib.Path(testing.lbd_binary()).parent / "lbd_gen"
        if not generator.exists():
            self.skipTest(f"{generator} is not built")
        for folder in ("bin", "dev", "run", "state"):
            (self.dir / folder).mkdir(mode=0o700)
        os.symlink(generator, self.dir / "bin/gen")
        self.env = {**os.environ, "PATH": f"{self.path('bin')}:/usr/sbin:/usr/bin:/sbin:/bin",
                    "LC_ALL": "C", "DM_DISABLE_UDEV": "1", "XDG_RUNTIME_DIR": self.path("run"),
                    "XDG_STATE_HOME": self.path("state"), "HOME": self.path("state")}

    def make_disks(self, count, size_bytes):
        self.disks = []
        for number in range(count):
            path = self.path(f"dev/vd{chr(ord('a') + number)}")
            with open(path, "wb") as file:
                file.truncate(size_bytes)
            self.disks.append(path)

    def under_lbd(self, *command):
        words = [word for disk in self.disks for word in ("--disk", disk)]
        return self.run_any(testing.lbd_binary(), "run", "--log-level", "warn", *words, "--", *command,
                            env=self.env, timeout_s=110)

    def numbers(self):
        shown = self.under_lbd("stat", "-L", "-c", "%t %T", *self.disks)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        return [tuple(int(word, 16) for word in line.split()) for line in shown.stdout.splitlines()]

    def place(self, command, numbers):
        def here(text):
            return transcripts.place(text, self.disks, numbers)
        return transcripts.Command(command.group, here(command.text), [here(line) for line in command.output],
                                   command.logged, command.status)

    def compare(self, original, then, now):
        if then.text.startswith("dd "):  # the guest's dd has other words
            self.assertEqual(now.status, then.status)
        elif then.text == "dmsetup targets":  # ours are all there from the start
            self.assertLessEqual(set(then.output), set(now.output))
        elif original.output != then.output:  # with other numbers columns are of other widths
            self.assertEqual([line.split() for line in now.answer()],
                             [line.split() for line in then.answer()])
        else:
            self.assertEqual(now.answer(), then.answer())

    def compare_log(self, commands, log):
        lines = [re.sub(r"^\S+ (warn|error|info) ", "", line) for line in log.splitlines()]
        at = 0
        for wanted in logged_by(commands):
            self.assertIn(wanted, lines[at:], "in this order")
            at = lines.index(wanted, at) + 1

    def play(self, name):
        transcript = transcripts.read(FOLDER / f"{name}.transcript")
        self.make_disks(*transcript.disks())
        numbers = self.numbers()
        commands = [self.place(command, numbers) for command in transcript.commands]
        script = self.path("script")
        pathlib.Path(script).write_text(transcripts.script(commands), encoding="utf-8")
        done = self.under_lbd("bash", script)
        answers = transcripts.played(commands, done.stdout)
        for original, then, now in zip(transcript.commands, commands, answers, strict=True):
            with self.subTest(command=then.text, group=then.group):
                self.compare(original, then, now)
        with self.subTest(log=name):
            self.compare_log(commands, done.stderr)


def add_tests():
    for path in sorted(FOLDER.glob("*.transcript")):
        def test(case, name=path.stem):
            case.play(name)
        setattr(Transcripts, f"test_{path.stem.replace('-', '_')}", test)


add_tests()

if __name__ == "__main__":
    testing.main()
