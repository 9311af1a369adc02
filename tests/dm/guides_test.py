# SPDX-License-Identifier: MIT
"""Every command of docs/guides is run and answers what the guide shows.

A guide's commands stand in blocks ```sh NAME; the blocks of one name are one session. `$ lbd run … -- sh -e` begins
the part of a session that runs under LBD, up to the session's end.
"""

import re
import shutil
import subprocess

import mapped
import testing

GUIDES = testing.SOURCE_DIR / "docs/guides"


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
        testing.require("sqlite3", "mkfs.ext4", "debugfs", "e2fsck", "cryptsetup")
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


if __name__ == "__main__":
    testing.main()
