# SPDX-License-Identifier: MIT
"""Every command of docs/guides is run and answers what the guide shows; every page of a target has a table that loads.

A guide's commands stand in blocks ```sh NAME; the blocks of one name are one session. `$ lbd run … -- sh -e` begins
the part of a session that runs under LBD, up to the session's end.
"""

import re
import shutil
import subprocess

import mapped
import testing
import transcripts

GUIDES = testing.SOURCE_DIR / "docs/guides"
TABLE = re.compile(r"(?:^ {4}\d+ \d+ [a-z].*\n)+", re.MULTILINE)


def sessions(text):
    """name -> its lines, in order."""
    found = {}
    for name, block in re.findall(r"^```sh (\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.setdefault(name, []).extend(block.splitlines())
    return found


def script_of(lines):
    """A shell script of the commands that checks what each prints."""
    script, wanted = ["set -e"], []
    inside = False
    for line in [*lines, "$"]:
        if not line.startswith("$"):
            wanted.append(line)
            continue
        if wanted:
            script[-1] = f"{{ {script[-1]}; }} >out 2>&1 || cat out; printf '%s\\n' {shquote(wanted)} | diff - out"
            wanted = []
        command = line[2:]
        if command.startswith("lbd run "):
            inside = True
            script.append(command.replace("-- sh -e", "-- sh -e <<'EOF_OF_GUIDE'"))
        elif command.startswith("! "):
            script.append(f"if {command[2:]}; then echo 'this should have failed: '{shquote([command])}; exit 1; fi")
        elif command:
            script.append(command)
    return "\n".join(script) + ("\nEOF_OF_GUIDE\n" if inside else "\n")


def shquote(words):
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


class Guides(mapped.Case):
    def test_every_command_answers_as_shown(self):
        self.make_disk(4096)
        self.require_mount()
        testing.require("sqlite3", "mkfs.ext4", "debugfs", "e2fsck")
        guides = sorted(GUIDES.glob("*.md"))
        self.assertTrue(guides)
        for path in guides:
            for name, lines in sessions(path.read_text("utf-8")).items():
                with self.subTest(guide=path.name, session=name):
                    folder = self.dir / f"{path.stem}-{name}"
                    folder.mkdir()
                    script = script_of(lines)
                    done = subprocess.run(["bash", "-c", script], cwd=folder, env=self.env, text=True, timeout=100,
                                          capture_output=True, check=False)
                    self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}{done.stderr}")
                    shutil.rmtree(folder)


def one_device_each(blocks):
    """The tables of blocks of lines: a line that begins at sector 0 begins a table."""
    for block in blocks:
        tables = []
        for line in (line.strip() for line in block.splitlines()):
            if line.startswith("0 "):
                tables.append([])
            tables[-1].append(line)
        yield from tables


class Pages(mapped.Case):
    def test_the_tables_of_every_page_load(self):
        for _ in range(3):
            self.make_disk(4 << 30)
        found = set()
        for page in sorted((testing.SOURCE_DIR / "src/target").glob("*/*.md")):
            tables = TABLE.findall(page.read_text("utf-8"))
            with self.subTest(page=page.name):
                self.assertTrue(tables, "a page without an example")
                for table in one_device_each(tables):
                    found |= {line.split()[2] for line in table}
                    here = transcripts.place("\n".join(table), self.disks, [])
                    self.sh(f"dmsetup create page --table '{here}'; dmsetup table page; dmsetup remove page")
        shown = self.under_lbd("dmsetup", "targets").stdout
        self.assertEqual({line.split()[0] for line in shown.splitlines()} - found, set(), "types without an example")


if __name__ == "__main__":
    testing.main()
