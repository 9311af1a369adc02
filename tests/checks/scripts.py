#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""shellcheck over every shell script, and the Python compiler over every Python file.

usage: scripts.py ROOT
"""

import re
import shutil
import subprocess
import sys

import source

SHELL = re.compile(r"#!.*\b(ba|da)?sh\b")
PYTHON = re.compile(r"#!.*\bpython3?\b")


def shell_scripts(root):
    for name in source.project_files(root):
        text = source.read_text(root, name)
        if text is not None and (name.endswith(".sh") or SHELL.match(text)):
            yield name


def check_python(root):
    for name in source.project_files(root):
        text = source.read_text(root, name)
        if text is not None and (name.endswith(".py") or PYTHON.match(text)):
            try:
                compile(text, name, "exec")
            except SyntaxError as error:
                yield source.Finding(name, error.lineno or 0, f"Python: {error.msg}")


def check_shell(root):
    names = list(shell_scripts(root))
    if names:
        done = subprocess.run(["shellcheck", "-x", "-P", "SCRIPTDIR", "-f", "gcc", *names], cwd=root,
                              capture_output=True, text=True, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            path, _, rest = line.partition(":")
            number, _, text = rest.partition(":")
            yield source.Finding(path, number, text)


def check(root):
    return [*check_python(root), *check_shell(root)]


if __name__ == "__main__":
    if not shutil.which("shellcheck"):
        print("skipped: shellcheck is not installed")
        sys.exit(77)
    source.report(check(sys.argv[1]))
