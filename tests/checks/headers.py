#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every header of src/ compiles by itself. The build shows it for a header that a source file includes
before any other; the rest is compiled here.

usage: headers.py ROOT COMPILER
"""

import concurrent.futures
import os
import re
import subprocess
import sys

import source

FLAGS = ("-std=c++20", "-fsyntax-only", "-x", "c++", "-Wall", "-Wextra", "-Werror",
         "-Wno-pragma-once-outside-header", '-DLBD_VERSION="0"')

# Libraries whose headers lie in folders of their own.
PACKAGES = ("fuse3",)


def package_flags():
    done = subprocess.run(["pkg-config", "--cflags-only-I", *PACKAGES], capture_output=True, text=True,
                          check=True)
    return done.stdout.split()


def compile_header(root, compiler, flags, name):
    """What the compiler says of a header on its own; empty when that is nothing."""
    done = subprocess.run([compiler, *FLAGS, *flags, "-I", f"{root}/src", "-include", f"{root}/{name}", os.devnull],
                          capture_output=True, text=True, check=False)
    return done.stderr if done.returncode != 0 else ""


def first_include(root, name):
    """The header of src/ that a file includes before anything else, or None."""
    found = re.search(r'^#include ([<"])(.+)[>"]', source.read_text(root, name), re.MULTILINE)
    return f"src/{found.group(2)}" if found and found.group(1) == '"' else None


def check(root, compiler):
    files = [name for name in source.cpp_files(root) if name.startswith("src/")]
    shown = {first_include(root, name) for name in files if name.endswith(".cc")}
    names = [name for name in files
             if name.endswith(".h") and name not in shown and not source.is_test(name)]
    flags = package_flags()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda name: compile_header(root, compiler, flags, name), names)
    return [source.Finding(name, 0, f"does not compile by itself:\n{text}")
            for name, text in zip(names, said) if text]


if __name__ == "__main__":
    source.report(check(sys.argv[1], sys.argv[2]))
