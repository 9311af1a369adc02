# SPDX-License-Identifier: MIT
"""Plays transcripts (transcripts.py) to the real dmsetup under `lbd run`, and compares with the kernel's answers.

Device numbers of disks are LBD's own. What a failed command made the kernel log is in LBD's log, in order.
"""

import dataclasses
import pathlib
import re

import mapped
import transcripts

# What devices tell, in a file that is read after each command.
WATCH = "lbd monitor >>{events} 2>&1 & watcher=$!; while ! grep -q KERNEL {events}; do sleep 0.02; done"
EVENTS = "sleep 0.05; printf '\\005'; cat {events}; : >{events}; printf '\\005'"


def logged_by(commands):
    """The lines of the kernel's log that LBD's has to have: those of failed commands, but not remarks."""
    return [line for command in commands if command.status for line in command.logged
            if not line.endswith(" loaded") and " is deprecated" not in line]


class Case(mapped.Case):
    def numbers(self):
        shown = self.under_lbd("stat", "-L", "-c", "%t %T", *self.disks)
        self.assertEqual(shown.returncode, 0, shown.stderr)
        return [tuple(int(word, 16) for word in line.split()) for line in shown.stdout.splitlines()]

    def place(self, command, numbers):
        def here(text):
            return transcripts.place(text, self.disks, numbers)
        return dataclasses.replace(command, text=here(command.text), output=[here(line) for line in command.output],
                                   events=[here(line) for line in command.events])

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

    def play(self, transcript):
        """The commands on new disks; every answer has to be the transcript's."""
        count, size_bytes = transcript.disks()
        for _ in range(count):
            self.make_disk(size_bytes)
        self.require_mount()
        numbers = self.numbers()
        commands = [self.place(command, numbers) for command in transcript.commands]
        script = self.path("script")
        wipe = "\n".join(f"head -c {size_bytes} /dev/zero | dd of={disk} bs=1M conv=notrunc status=none"
                         for disk in self.disks)
        watched = transcript.has_uevents()
        events = self.path("events")
        lines = [WATCH.format(events=events)] if watched else []
        lines.append(transcripts.script(commands, after=EVENTS.format(events=events) if watched else "", between=wipe))
        lines += ["kill $watcher"] if watched else []
        pathlib.Path(script).write_text("\n".join(lines), encoding="utf-8")
        done = self.under_lbd("bash", script)
        answers = transcripts.played(commands, done.stdout)
        told = re.findall("\x05(.*?)\x05", done.stdout, re.DOTALL) if watched else [""] * len(commands)
        for original, then, now, text in zip(transcript.commands, commands, answers, told, strict=True):
            with self.subTest(command=then.text, group=then.group):
                self.compare(original, then, now)
                self.assertEqual(transcripts.uevents(text), then.events)
        with self.subTest("log"):
            self.compare_log(commands, done.stderr)
        self.remove_disks()
