#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""C++ files look as clang-format 14 would write them; other versions differ, so it must be that one.

usage: format.py ROOT          (`tools/dev format` mends)
"""

import re
import shutil
import subprocess
import sys

import source

PROGRAM = "clang-format-14"


def check(root):
    names = source.cpp_files(root)
    if not names:
        return []
    done = subprocess.run([PROGRAM, "--dry-run", *names], cwd=root, capture_output=True, text=True,
                          check=False)
    if done.returncode != 0:
        return [source.Finding(".clang-format", 0, done.stderr.strip())]
    places = {}
    for path, line in re.findall(r"^(\S+?):(\d+):\d+: warning:", done.stderr, re.MULTILINE):
        places.setdefault(path, line)
    return [source.Finding(path, line, f"{PROGRAM} would change it, from here on")
            for path, line in sorted(places.items())]


if __name__ == "__main__":
    if not shutil.which(PROGRAM):
        print(f"skipped: {PROGRAM} is not installed")
        sys.exit(77)
    source.report(check(sys.argv[1]))
