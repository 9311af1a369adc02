#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Conformance probe for NBD servers: one test per rule, a table, an exit status.

  conform.py --server lbd [--stack memory|file|overlay|chain|threads|seccomp]
  conform.py --server nbdkit|qemu-nbd|nbd-server
  conform.py --server nbd+unix:///export?socket=/path [--read-only-uri URI] [--pid PID]

The export is overwritten. Exit status 0: every rule holds (for a foreign server: its known deviations show up and
no other); 1: a rule is broken; 77: the server cannot be started here.
"""

import argparse
import concurrent.futures
import fnmatch
import pathlib
import shutil
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

import nbd_wire as nbd  # noqa: E402
import probe  # noqa: E402
import rules_handshake  # noqa: E402
import rules_hostile  # noqa: E402
import rules_transmission  # noqa: E402
import servers  # noqa: E402
import testing  # noqa: E402

KINDS = ("lbd", "nbdkit", "qemu-nbd", "nbd-server")


def all_rules():
    """[(name without "rule_", function)] in the order of the files."""
    return [(name[5:], function) for module in (rules_handshake, rules_transmission, rules_hostile)
            for name, function in vars(module).items() if name.startswith("rule_")]


def run_rule(rule, target):
    """(verdict, remark): ok, skip, or FAIL with what went wrong."""
    start = time.monotonic()
    try:
        rule(target)
        verdict, remark = "ok", ""
    except probe.Skip as reason:
        verdict, remark = "skip", str(reason)
    except probe.Failed as problem:
        verdict, remark = "FAIL", str(problem)
    except (nbd.Closed, nbd.Broken, OSError, UnicodeDecodeError, AssertionError) as problem:
        verdict, remark = "FAIL", f"{type(problem).__name__}: {problem}"
    if target.revive():
        verdict, remark = "FAIL", f"the server died. {remark}"
    return verdict, remark, time.monotonic() - start


def judge(name, verdict, known):
    """The word for the table, and whether it counts as a failure."""
    listed = next((item for item in known if item.rstrip("*") == name), None)
    if listed is None:
        return verdict, verdict == "FAIL"
    if verdict == "FAIL":
        return "known", False
    return ("ok", False) if listed.endswith("*") else ("gone", True)


def print_row(name, word, remark, seconds, known):
    listed = known.get(name) or known.get(name + "*") or ""
    remark = " | ".join(part for part in (remark.replace("\n", " ")[:200], listed) if part)
    print(f"{word:5} {seconds:6.2f} s  {name.replace('_', ' ')}{'  -- ' if remark else ''}{remark}", flush=True)


def run_all(rules, start_server, known, wait_limit_s):
    """Runs the slow rules beside the quick ones; prints the table, returns the number of failures."""
    slow = [item for item in rules if hasattr(item[1], "slow")]
    quick = [item for item in rules if not hasattr(item[1], "slow")]
    failures = 0
    target = probe.Target(start_server, wait_limit_s)
    slow_target = probe.Target(start_server, wait_limit_s) if slow else None
    try:
        with concurrent.futures.ThreadPoolExecutor(max_workers=max(1, len(slow))) as pool:
            waiting = [(name, pool.submit(run_rule, rule, slow_target)) for name, rule in slow]
            results = ((name, run_rule(rule, target)) for name, rule in quick)
            for name, (verdict, remark, seconds) in list_lazily(results, waiting):
                word, failed = judge(name, verdict, known)
                failures += failed
                print_row(name, word, remark, seconds, known)
    finally:
        target.stop()
        if slow_target:
            slow_target.stop()
    return failures


def list_lazily(results, waiting):
    yield from results
    for name, future in waiting:
        yield name, future.result()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="lbd", help="lbd, nbdkit, qemu-nbd, nbd-server or a URI")
    parser.add_argument("--stack", default="memory", choices=servers.LBD_STACKS, help="layers for lbd")
    parser.add_argument("--read-only-uri", help="with a URI: the same kind of server, read-only")
    parser.add_argument("--pid", type=int, help="with a URI: the server's process, for the memory rules")
    parser.add_argument("--wait-limit", type=float, default=15,
                        help="seconds that a handshake may stay idle and that a shutdown may take")
    parser.add_argument("--only", default="*", help="run only the rules whose names match this pattern")
    parser.add_argument("--list", action="store_true", help="print the rules and stop")
    return parser.parse_args()


def main():
    options = parse_arguments()
    rules = [item for item in all_rules() if fnmatch.fnmatch(item[0], options.only)]
    if options.list:
        print("\n".join(name for name, _ in rules))
        return 0
    directory = tempfile.mkdtemp(prefix="lbd-conform-")
    try:
        if options.server in KINDS:
            if options.server != "lbd":
                testing.require(options.server)
            testing_start = servers.Starter(options.server, directory, options.stack)
        else:
            testing_start = servers.external(options.server, options.read_only_uri, options.pid)
        known = servers.DEVIATIONS.get(options.server, {})
        names = {name for name, _ in rules}
        known = {name: why for name, why in known.items() if name.rstrip("*") in names}
        failures = run_all(rules, testing_start, known, options.wait_limit)
    except unittest.SkipTest as reason:
        print(f"skipped: {reason}")
        return testing.SKIPPED
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{len(rules)} rules, {failures} unexpected")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
