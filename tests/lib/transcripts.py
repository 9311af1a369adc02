# SPDX-License-Identifier: MIT
"""Transcripts: shell commands and what they answered, as files that can be played again.

A file of tests/golden/transcripts:

    # text                      a remark; "# disks: N of SIZE" tells which disks the commands find,
                                "# uevents" that what devices tell is written down, too
    == NAME                     a group of commands
    $ command                   "> " continues it on the next line
    | a line of its output      both streams
    k a line                    of the kernel's log
    u ACTION DEVICE VARIABLE... an event of a mapped device
    = N                         its exit status, where that is not 0

The commands find their disks as /dev/vda, 254:0 and /dev/vdb, 254:16 and so on; `place` puts others there.
"""

import dataclasses
import re
import shlex

TOLD = {"RESIZE", "DISK_RO", "DM_TARGET", "DM_ACTION", "DM_SEQNUM", "DM_PATH", "DM_NR_VALID_PATHS", "DM_NAME",
        "DM_UUID"}  # of events: what they have to say
BEGIN, END = "\x01", "\x02"  # around what the player says itself


@dataclasses.dataclass
class Command:
    group: str
    text: str
    output: list = dataclasses.field(default_factory=list)
    logged: list = dataclasses.field(default_factory=list)
    events: list = dataclasses.field(default_factory=list)
    status: int = 0

    def answer(self):
        """What a person would compare: the output's lines, and the status unless 0."""
        return [*self.output, *([f"[exit status {self.status}]"] if self.status else [])]


@dataclasses.dataclass
class Transcript:
    remarks: list
    commands: list

    def disks(self):
        """How many disks, and the size of each in bytes."""
        for line in self.remarks:
            found = re.search(r"disks: (\d+) of (\d+) MiB", line)
            if found:
                return int(found[1]), int(found[2]) << 20
        return 0, 0

    def has_uevents(self):
        return "# uevents" in self.remarks


def read(path):
    """The transcript in a file."""
    remarks, commands, group = [], [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        mark, rest = line[:2], line[2:]
        if mark == "# " and not commands:
            remarks.append(line)
        elif mark == "==":
            group = rest[1:]
        elif mark == "$ ":
            commands.append(Command(group, rest))
        elif mark == "> ":
            commands[-1].text += "\n" + rest
        elif mark[:1] == "|":
            commands[-1].output.append(rest)
        elif mark == "k ":
            commands[-1].logged.append(rest)
        elif mark == "u ":
            commands[-1].events.append(rest)
        elif mark == "= ":
            commands[-1].status = int(rest)
        elif line.strip() and mark != "# ":
            raise ValueError(f"{path}: {line}")
    return Transcript(remarks, commands)


def write(path, transcript):
    """The opposite of read(); remarks between commands are lost."""
    lines, group = list(transcript.remarks), ""
    for command in transcript.commands:
        if command.group != group:
            group = command.group
            lines += ["", f"== {group}"]
        first, *more = command.text.split("\n")
        lines += [f"$ {first}", *(f"> {line}" for line in more)]
        lines += [f"| {line}" for line in command.output] + [f"k {line}" for line in command.logged]
        lines += [f"u {line}" for line in command.events]
        if command.status:
            lines.append(f"= {command.status}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


# Runs one command the way a person types it: one shell for all, both streams in one.
_PLAYER = """
play() {
  printf '\\001%d\\001' "$1"
  eval "$2" 2>&1 </dev/null
  printf '\\002%d\\002' "$?"
}
"""


def script(commands, after="", between=""):
    """A bash script that runs the commands; played() reads what it prints.

    `after` is run after each of them, `between` between groups.
    """
    lines = [_PLAYER]
    for number, command in enumerate(commands):
        if between and number and command.group != commands[number - 1].group:
            lines.append(between)
        lines.append(f"play {number} {shlex.quote(command.text)}")
        if after:
            lines.append(after)
    return "\n".join(lines) + "\n"


def played(commands, printed):
    """The commands with the answers that a run of script() printed."""
    answers = []
    for number, command in enumerate(commands):
        found = re.search(f"{BEGIN}{number}{BEGIN}(.*?){END}(\\d+){END}", printed, re.DOTALL)
        if not found:
            raise AssertionError(f"no answer to: {command.text}\n{printed[-2000:]}")
        output = found[1].split("\n")
        if output[-1] == "":
            output.pop()
        answers.append(dataclasses.replace(command, output=output, logged=[], events=[], status=int(found[2])))
    return answers


def uevents(text):
    """The events of mapped devices among these, which are lines NAME=VALUE, ACTION first, as lines of a transcript."""
    found = []
    for event in re.split(r"^(?=ACTION=)", text, flags=re.MULTILINE):
        values = dict(line.split("=", 1) for line in event.splitlines() if re.match(r"[A-Z_]+=", line))
        device = values.get("DEVNAME", "").rpartition("/")[2]
        if values.get("SUBSYSTEM") != "block" or not device.startswith("dm-"):
            continue
        # Cookies are between dmsetup and udev.
        names = [name for name in values if name in TOLD]
        if "DM_ACTION" not in values:  # LBD tells the device's name always
            names = [name for name in names if name not in ("DM_NAME", "DM_UUID")]
        line = " ".join([values["ACTION"], device, *(f"{name}={values[name]}" for name in names)])
        # Of a device that dmsetup removes the kernel says so twice.
        if not (line.startswith("remove ") and line in found):
            found.append(line)
    return found


def place(text, paths, numbers):
    """A command or its answer with other disks: /dev/vda is paths[0] and 254:0 numbers[0], (major, minor)."""
    def number_of(found):
        index = int(found[2]) // 16
        if index >= len(numbers):
            return found[0]
        major, minor = numbers[index]
        return f"{major}{found[1]}{minor}"

    text = re.sub(r"\b254(:|, )(\d+)\b", number_of, text)
    return re.sub(r"/dev/vd([a-z])\b", lambda found: paths[ord(found[1]) - ord("a")]
                  if ord(found[1]) - ord("a") < len(paths) else found[0], text)
