#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Sums up test reports: summary.py NAME=FILE..., files as `ctest --output-junit` writes them.

Prints the slowest tests, those that failed or were skipped, and as its last line
`N passed, N failed, N skipped`. Exit status 0 when there was a test and none failed.
"""

import sys
import xml.etree.ElementTree

SLOWEST = 5
OUTPUT_LINES = 40


def outcome_of(case):
    """passed, failed or skipped; a test that never ran for another reason than a skip has failed."""
    status = case.get("status")
    if status == "run":
        return "passed"
    skipped = case.find("skipped")
    message = skipped.get("message", "") if skipped is not None else ""
    if status == "disabled" or message.startswith("SKIP_"):
        return "skipped"
    return "failed"


def reason_of(case):
    """The line of a skipped test's output that says why, where it has one."""
    lines = (case.findtext("system-out") or "").strip().splitlines()
    for line in lines:
        if "skipped" in line.lower():
            return line.strip()
    return lines[-1].strip() if lines else ""


def read_report(name, path):
    """(test's name, outcome, seconds, element) for every test in a report."""
    cases = xml.etree.ElementTree.parse(path).getroot().iter("testcase")
    return [(f"{name}: {case.get('name')}", outcome_of(case), float(case.get("time") or 0), case)
            for case in cases]


def main(arguments):
    tests = [test for pair in arguments for test in read_report(*pair.split("=", 1))]
    for name, _, seconds, _ in sorted(tests, key=lambda test: -test[2])[:SLOWEST]:
        print(f"{seconds:8.1f} s  {name}")
    for name, outcome, _, case in tests:
        if outcome == "skipped":
            print(f"skipped: {name}: {reason_of(case)}")
    for name, outcome, _, case in tests:
        if outcome == "failed":
            print(f"FAILED: {name}")
            for line in (case.findtext("system-out") or "").strip().splitlines()[-OUTPUT_LINES:]:
                print(f"    {line}")
    outcomes = [outcome for _, outcome, _, _ in tests]
    print(", ".join(f"{outcomes.count(kind)} {kind}" for kind in ("passed", "failed", "skipped")))
    return 0 if outcomes.count("passed") and not outcomes.count("failed") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
