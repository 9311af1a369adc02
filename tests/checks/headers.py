#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Every header of src/ compiles by itself.

usage: headers.py ROOT COMPILER
"""

import concurrent.futures
import os
import subprocess
import sys

import source

FLAGS = ("-std=c++20", "-fsyntax-only", "-x", "c++", "-Wall", "-Wextra", "-Werror",
         "-Wno-pragma-once-outside-header", '-DLBD_VERSION="0"')


def compile_header(root, compiler, name):
    """What the compiler says of a header on its own; empty when that is nothing."""
    done = subprocess.run([compiler, *FLAGS, "-I", f"{root}/src", "-include", f"{root}/{name}", os.devnull],
                          capture_output=True, text=True, check=False)
    return done.stderr if done.returncode != 0 else ""


def check(root, compiler):
    names = [name for name in source.cpp_files(root) if name.startswith("src/") and name.endswith(".h")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        said = pool.map(lambda name: compile_header(root, compiler, name), names)
    return [source.Finding(name, 0, f"does not compile by itself:\n{text}")
            for name, text in zip(names, said) if text]


if __name__ == "__main__":
    source.report(check(sys.argv[1], sys.argv[2]))
