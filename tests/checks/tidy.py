#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""House style that no compiler checks: sizes, licence lines, banned words, banned calls, coroutine traps.

usage: tidy.py ROOT
"""

import pathlib
import re
import sys

import source

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 800
MAX_COLUMNS = 100
MAX_SCRIPT_COLUMNS = 120
SPDX = "SPDX-License-Identifier: MIT"

CODE = (".h", ".cc", ".py", ".sh", ".cmake", "CMakeLists.txt")
PROSE = (".md", ".txt", ".1")
RECORDED = (".transcript", ".image")  # what other programs printed and wrote: theirs to lay out

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|\bnot implemented\b|\bstub\b", re.IGNORECASE)

# The project speaks only of itself: not of the machine it was written on, nor of how it came about.
FOREIGN_TALK = re.compile(
    r"(?<![\w/.-])/(work|farm|root)/|\.\./shared\b|/home/[a-z]+/|\bissues? #?\d+\b|(?<!\w)#\d+ (on|in) the tracker"
    r"|\b(claude|chatgpt|copilot|language model|llms?|ai agents?|sub-?agents?)\b"
    r"|\b(deb\.debian\.org|security\.debian\.org|pypi\.org|registry\.npmjs|crates\.io|proxy\.golang)\b",
    re.IGNORECASE)

# What only src/rt may do. A call is matched with :: before it; without, unless it looks like a member
# or a declaration, where its name is not also that of a device's operation (their headers are banned too).
CALL = r"(?<![\w.>:])(?:::|std::)?%s\s*\("
QUALIFIED_CALL = r"(?<![\w.>:])::%s\s*\("
BANNED_CALLS = {
    "time": "time clock gettimeofday clock_gettime clock_nanosleep nanosleep sleep usleep timerfd_create "
            "localtime localtime_r",
    "threads": "pthread_create pthread_mutex_lock pthread_cond_wait fork vfork",
    "randomness": "rand srand random srandom getrandom drand48 arc4random",
    "environment": "getenv secure_getenv setenv putenv",
    "files": "open openat creat fopen read write pread pwrite preadv pwritev readv writev mmap munmap "
             "fsync fdatasync ftruncate fallocate unlink rename stat fstat lstat socket connect accept bind "
             "listen recv send recvmsg sendmsg ioctl fcntl poll epoll_wait popen system",
}
BANNED_NAMES = {
    "time": r"\b\w*_clock::now\b|\bstd::this_thread\b",
    "threads": r"\bstd::(jthread|thread|mutex|recursive_mutex|shared_mutex|condition_variable\w*|future|promise"
               r"|async|lock_guard|unique_lock|scoped_lock)\b|\bthread_local\b",
    "randomness": r"\bstd::(random_device|mt19937(_64)?|default_random_engine)\b",
    "files": r"\bstd::([io]?fstream|filesystem)\b",
}
BANNED_HEADERS = {
    "time": "<time.h> <ctime> <sys/time.h> <sys/timerfd.h>",
    "threads": "<thread> <mutex> <shared_mutex> <condition_variable> <future> <pthread.h> <semaphore>",
    "randomness": "<random> <sys/random.h>",
    "files": "<fstream> <filesystem> <unistd.h> <fcntl.h> <poll.h> <liburing.h> <netdb.h> <dirent.h> "
             "<sys/socket.h> <sys/stat.h> <sys/mman.h> <sys/ioctl.h> <sys/file.h> <sys/epoll.h> "
             "<sys/un.h>",
}
# Where the rule does not hold: rt is the place for it, app talks to the user, tests do as they like.
RUNTIME_FOLDERS = ("src/rt/", "src/app/")

# Compilers that the project supports miscompile these; the safe forms stand in HACKING.md.
AWAIT = re.compile(r"\bco_(?:await|yield)\b")
CAPTURING_COROUTINE = re.compile(
    r"\[[^\]\n]+\]\s*\([^()]*\)\s*(?:mutable\s*|noexcept\s*)*->\s*(?:\w+::)*task\s*<")
LAMBDA_AWAITED = re.compile(r"\bco_await\b[^;{}]*\[[^\]\n;]*[\w&=][^\]\n;]*\]\s*(?:\([^()]*\)\s*)?(?:mutable\s*)?\{")
CONDITION = re.compile(r"\b(if|while|switch|for)\s*\(")
DECLARES = re.compile(r"\s*(?:const\s+)?(?:auto|\w[\w:<>]*)\s*[&*]*\s+\w+\s*=(?!=)")
AGGREGATE_AWAITED = re.compile(r"\bco_await\b[^;{}]*[({,]\s*(?:\w+(?:::\w+)*)?\{\s*\.")


def lines_matching(pattern, text):
    """(line number, matched text) for every match."""
    for match in pattern.finditer(text):
        yield source.line_of(text, match.start()), match.group(0).strip()


def is_code(name, text):
    return name.endswith(CODE) or text.startswith("#!")


def check_sizes(name, text):
    lines = text.split("\n")
    columns = MAX_COLUMNS if name.endswith(source.CPP_SUFFIXES) else MAX_SCRIPT_COLUMNS
    if len(lines) - 1 > MAX_FILE_LINES:
        yield 0, f"{len(lines) - 1} lines, at most {MAX_FILE_LINES}"
    for number, line in enumerate(lines, start=1):
        if len(line) > columns and "http" not in line and not name.endswith(PROSE):
            yield number, f"{len(line)} columns, at most {columns}"
        if line.rstrip() != line:
            yield number, "blanks at the end of the line"
    if text and not text.endswith("\n"):
        yield len(lines), "no newline at the end of the file"


def check_licence(text):
    if not any(SPDX in line for line in text.split("\n")[:2]):
        yield 1, f"no line '{SPDX}' at the top"


def check_words(text):
    for line, word in lines_matching(UNFINISHED, text):
        yield line, f"unfinished: '{word}'"
    for line, word in lines_matching(FOREIGN_TALK, text):
        yield line, f"the project speaks only of itself: '{word}'"


def functions(stripped):
    """(first line, last line) of every function body; a body is a brace outside any other than those of
    namespaces, classes and the like."""
    containers, depth, starts = [], 0, None
    statement = 0
    for match in re.finditer(r"[{};]|\n[ \t]*#[^\n]*", stripped):
        sign, position = match.group(0), match.start()
        if depth == 0:
            if sign == "{":
                head = stripped[statement:position]
                if opens_container(head):
                    containers.append(position)
                    statement = match.end()
                else:
                    depth = 1
                    starts = statement + len(head) - len(head.lstrip())
            elif sign == "}":
                if containers:
                    containers.pop()
                statement = match.end()
            else:
                statement = match.end()
        elif sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                yield source.line_of(stripped, starts), source.line_of(stripped, position)
                statement = match.end()


def opens_container(head):
    """Whether the brace after this text opens a namespace, class, struct, union, enum or extern block."""
    head = re.sub(r"^\s*(public|private|protected)\s*:", "", head.strip()).strip()
    head = re.sub(r"template\s*<[^{}]*?>\s*(?=(class|struct|union)\b)", "", head)
    if re.match(r"(inline\s+)?namespace\b|extern\s*\"", head):
        return True
    return bool(re.match(r"(class|struct|union|enum)\b", head)) and not re.search(r"\)\s*(const|noexcept)?\s*$", head)


def check_functions(stripped):
    for first, last in functions(stripped):
        if last - first + 1 > MAX_FUNCTION_LINES:
            yield first, f"a function of {last - first + 1} lines, at most {MAX_FUNCTION_LINES}"


def check_runtime(name, text, stripped, allowed):
    """Time, threads, randomness, environment and files outside src/rt."""
    exceptions = {symbol for prefix, symbols in allowed if name.startswith(prefix) for symbol in symbols}
    if "*" in exceptions:
        return
    for kind, names in BANNED_CALLS.items():
        form = QUALIFIED_CALL if kind == "files" else CALL
        pattern = re.compile(form % f"({'|'.join(names.split())})")
        for match in pattern.finditer(stripped):
            if match.group(1) not in exceptions and not is_declaration(stripped, match.start()):
                yield source.line_of(stripped, match.start()), f"{kind} belong to src/rt: {match.group(1)}()"
    for kind, expression in BANNED_NAMES.items():
        for line, word in lines_matching(re.compile(expression), stripped):
            if word not in exceptions:
                yield line, f"{kind} belong to src/rt: {word}"
    for kind, headers in BANNED_HEADERS.items():
        for header in headers.split():
            if header not in exceptions and f"#include {header}" in text:
                line = source.line_of(text, text.index(f"#include {header}"))
                yield line, f"{kind} belong to src/rt: {header}"


def is_declaration(stripped, position):
    """Whether a name( at this position declares a function rather than calling one: a type stands before."""
    before = stripped[:position].rstrip(" \t")
    word = re.search(r"([\w>&*]+)$", before)
    return bool(word) and word.group(1) not in ("return", "co_return", "co_await", "else", "case", "do")


def in_parentheses(text, opening):
    """What stands between the parenthesis at a position and its partner."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[opening + 1:at]
    return text[opening + 1:]


def awaits_without_declaring(keyword, inside):
    """Whether the condition awaits, and neither it nor a for's beginning declares a variable."""
    parts = inside.split(";")
    if keyword == "for":
        return len(parts) == 3 and not parts[0].strip() and bool(AWAIT.search(parts[1]))
    return len(parts) == 1 and bool(AWAIT.search(inside)) and not DECLARES.match(inside)


def check_coroutines(stripped, test):
    for match in CONDITION.finditer(stripped):
        if awaits_without_declaring(match.group(1), in_parentheses(stripped, match.end() - 1)):
            yield (source.line_of(stripped, match.start()),
                   "co_await in a condition (a body without variables would not run): name its result before")
    for match in AWAIT.finditer(stripped):
        start = max(stripped.rfind(sign, 0, match.start()) for sign in ";{}")
        if "?" in stripped[start + 1:match.start()]:
            yield source.line_of(stripped, match.start()), "co_await in an operand of ?: (use if)"
    for line, _ in lines_matching(CAPTURING_COROUTINE, stripped):
        if not test:  # there the lambda often has a name and outlives the coroutine
            yield line, "a lambda that captures must not be a coroutine"
    for line, _ in lines_matching(LAMBDA_AWAITED, stripped):
        yield line, "a capturing lambda inside an awaited expression: name it before"
    for line, _ in lines_matching(AGGREGATE_AWAITED, stripped):
        yield line, "a braced aggregate inside an awaited expression: name it before"


def check_cpp(name, text, allowed):
    stripped = source.strip_cpp(text)
    yield from check_functions(stripped)
    yield from check_coroutines(stripped, source.is_test(name))
    if name.endswith(".h"):
        if "#pragma once" not in text:
            yield 1, "no #pragma once"
        for line, _ in lines_matching(re.compile(r"\busing namespace\b"), stripped):
            yield line, "using namespace in a header"
    if name.startswith("src/") and not source.is_test(name) and not name.startswith(RUNTIME_FOLDERS):
        yield from check_runtime(name, text, stripped, allowed)


def read_allowed(path):
    """[(path prefix, symbols)] of the file with the exceptions; each needs a reason."""
    allowed = []
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split(None, 2)
        if not words:
            continue
        if len(words) < 3:
            raise ValueError(f"{path}: an exception without a reason: {line}")
        allowed.append((words[0], words[1].split(",")))
    return allowed


def check_file(name, text, allowed):
    # The checks have to name what they look for.
    if not name.startswith("tests/checks/"):
        yield from check_words(text)
    yield from check_sizes(name, text)
    if is_code(name, text):
        yield from check_licence(text)
    if name.endswith(source.CPP_SUFFIXES):
        yield from check_cpp(name, text, allowed)


def check(root, allowed_path=pathlib.Path(__file__).with_name("allowed.txt")):
    allowed = read_allowed(allowed_path)
    findings = []
    for name in source.project_files(root):
        text = source.read_text(root, name)
        if text is None or "/corpus/" in name or name.endswith(RECORDED):
            continue
        findings += [source.Finding(name, line, what) for line, what in check_file(name, text, allowed)]
    return findings


if __name__ == "__main__":
    source.report(check(sys.argv[1]))
