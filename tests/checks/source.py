# SPDX-License-Identifier: MIT
"""What the checks share: which files the project has, and C++ text without comments and strings."""

import pathlib
import re
import subprocess
import sys

CPP_SUFFIXES = (".h", ".cc")
SKIPPED_FOLDERS = re.compile(r"(^|/)(\.git|build[^/]*|quickstart-data|__pycache__)(/|$)")


TEST_FILE = re.compile(r"_test\.(cc|h)$|(^|/)(test|fake)_[^/]*$|/testing/")


def is_test(name):
    """Whether a file belongs to tests only: x_test.cc, x_test.h, and the helpers test_x and fake_x."""
    return bool(TEST_FILE.search(name))


class Finding:
    """One thing to mend, at a line of a file; line 0 means the whole file."""

    def __init__(self, path, line, text):
        self.path = path
        self.line = line
        self.text = text

    def __str__(self):
        return f"{self.path}:{self.line}: {self.text}"


def project_files(root):
    """The paths, relative to root, of the files that git tracks; without git, of all but build folders."""
    root = pathlib.Path(root)
    tracked = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)
    if tracked.returncode == 0 and (root / ".git").exists():
        names = tracked.stdout.decode().split("\0")
    else:
        names = [str(path.relative_to(root)) for path in root.rglob("*")]
    return sorted(name for name in names
                  if name and (root / name).is_file() and not SKIPPED_FOLDERS.search(name))


def cpp_files(root):
    """The C++ files among project_files."""
    return [name for name in project_files(root) if name.endswith(CPP_SUFFIXES)]


def read_text(root, name):
    """The text of a file, or None where it is not text."""
    try:
        return (pathlib.Path(root) / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


_TOKENS = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Za-z_])\'(?:\\.|[^\'\\\n])+\'',
    re.DOTALL)


def strip_cpp(text):
    """C++ text with its comments, strings and character constants blanked; line numbers stay."""
    def blank(match):
        found = match.group(0)
        lines = "\n" * found.count("\n")
        if found.startswith(("//", "/*")):
            return " " + lines
        return found[0] + lines + found[-1] if not found.startswith("R") else '""' + lines

    return _TOKENS.sub(blank, text)


def line_of(text, position):
    """The number of the line that holds a position of the text."""
    return text.count("\n", 0, position) + 1


def report(findings):
    """Prints the findings and ends the program: status 1 when there are any."""
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings" if findings else "nothing found")
    sys.exit(1 if findings else 0)
