# SPDX-License-Identifier: MIT
"""The real dmsetup under `lbd run` says, to the byte, what it said to the kernel (tests/golden/transcripts).

Device numbers of disks are LBD's own. What a failed command made the kernel log is in LBD's log, in order.
"""

import pathlib
import re

import mapped
import testing
import transcripts

FOLDER = testing.SOURCE_DIR / "tests/golden/transcripts"


def logged_by(commands):
    """The lines of the kernel's log that LBD's has to have: those of failed commands, but not remarks."""
    return [line for command in commands if command.status for line in command.logged
            if not line.endswith(" loaded") and " is deprecated" not in line]


class Transcripts(mapped.Case):
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
        count, size_bytes = transcript.disks()
        for _ in range(count):
            self.make_disk(size_bytes)
        self.require_mount()
        numbers = self.numbers()
        commands = [self.place(command, numbers) for command in transcript.commands]
        script = self.path("script")
        wipe = "\n".join(f"head -c {size_bytes} /dev/zero | dd of={disk} bs=1M conv=notrunc status=none"
                         for disk in self.disks)
        pathlib.Path(script).write_text(transcripts.script(commands, between=wipe), encoding="utf-8")
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
