#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Plays transcripts (tests/lib/transcripts.py) to the kernel in the guest.

usage: transcripts_in_guest.py FILE...     writes into the files what the kernel answers
"""

import dataclasses
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import guest
import mapped
import transcripts

DISKS, DISK_BYTES = 5, 16 << 20

PRELUDE = """
modprobe -a dm-mod dm-zero
export DM_DISABLE_UDEV=1
cp /share/gen /usr/sbin/gen
"""

# Everything a transcript may have left is taken away before the next one.
RESET = """
wait
for node in /sys/block/dm-*; do [ -e "$node" ] && dmsetup resume "/dev/${node##*/}"; done
dmsetup remove_all --force >/dev/null 2>&1
for disk in /dev/vd[a-e]; do blkdiscard -z $disk; done
dmesg -c >/dev/null
"""

# Busybox calls a program for each event.
WATCH = "uevent env >>/tmp/uevents & watcher=$!; sleep 0.3"
EVENTS = "sleep 0.1; printf '\\005'; cat /tmp/uevents; : >/tmp/uevents; printf '\\005'"

LOG = "printf '\\003'; dmesg -c | sed -n 's/^\\[[^]]*\\] //; /^device-mapper: /p'; printf '\\003'"


def play(asked):
    """What the kernel answers to the commands of these Transcripts: a list of Transcripts."""
    lines = [PRELUDE]
    for transcript in asked:
        lines += [RESET, "printf '\\004'"]
        if transcript.has_uevents():
            lines += [WATCH, transcripts.script(transcript.commands, after=f"{LOG}\n{EVENTS}"), "kill $watcher"]
        else:
            lines.append(transcripts.script(transcript.commands, after=LOG))
    with tempfile.TemporaryDirectory(prefix="lbd-dm-") as folder:
        scratch = pathlib.Path(folder)
        share = scratch / "share"
        share.mkdir()
        shutil.copy(mapped.generator(static=True), share / "gen")
        disks = []
        for number in range(DISKS):
            disks.append(scratch / f"disk{number}")
            with open(disks[-1], "wb") as file:
                file.truncate(DISK_BYTES)
        result = guest.run("\n".join(lines), disks=disks, share=share, timeout_s=600)
    if result.status is None:
        raise AssertionError(f"the guest died:\n{result.output[-3000:]}\n{result.console[-3000:]}")
    played = []
    for transcript, printed in zip(asked, result.output.split("\x04")[1:], strict=True):
        commands = transcripts.played(transcript.commands, printed)
        logs = re.findall("\x03(.*?)\x03", printed, re.DOTALL)
        commands = [dataclasses.replace(command, logged=log.splitlines())
                    for command, log in zip(commands, logs, strict=True)]
        if transcript.has_uevents():
            told = re.findall("\x05(.*?)\x05", printed, re.DOTALL)
            commands = [dataclasses.replace(command, events=transcripts.uevents(text))
                        for command, text in zip(commands, told, strict=True)]
        played.append(transcripts.Transcript(transcript.remarks, commands))
    return played


def main():
    files = [pathlib.Path(name) for name in sys.argv[1:]]
    for path, transcript in zip(files, play([transcripts.read(path) for path in files]), strict=True):
        transcripts.write(path, transcript)


if __name__ == "__main__":
    main()
