# SPDX-License-Identifier: MIT
"""The newcomer's and the developer's scripts: what they accept, count and tell."""

import sys

import testing

ROOT = testing.SOURCE_DIR
REPORT = """<testsuite>
<testcase name="good" status="run" time="0.5"><system-out>fine</system-out></testcase>
<testcase name="slow" status="run" time="9"/>
%s
</testsuite>"""
BAD = '<testcase name="bad" status="fail" time="1"><failure/><system-out>line one\nline two</system-out></testcase>'
LEFT_OUT = ('<testcase name="left" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/>'
            "<system-out>test_x ... skipped 'no fio'</system-out></testcase>")
GONE = '<testcase name="gone" status="notrun"><skipped message="Unable to find executable"/></testcase>'


class Summary(testing.Case):
    def sum_up(self, *cases):
        report = self.dir / "report.xml"
        report.write_text(REPORT % "".join(cases), encoding="utf-8")
        return self.run_any(sys.executable, "-B", ROOT / "tools/summary.py", f"release={report}")

    def test_counts_and_status(self):
        for cases, status, last in (((), 0, "2 passed, 0 failed, 0 skipped"),
                                    ((LEFT_OUT,), 0, "2 passed, 0 failed, 1 skipped"),
                                    ((BAD, LEFT_OUT), 1, "2 passed, 1 failed, 1 skipped"),
                                    ((GONE,), 1, "2 passed, 1 failed, 0 skipped")):
            with self.subTest(last=last):
                done = self.sum_up(*cases)
                self.assertEqual((done.returncode, done.stdout.splitlines()[-1]), (status, last))

    def test_tells_failures_skips_and_the_slowest(self):
        lines = self.sum_up(BAD, LEFT_OUT).stdout.splitlines()
        self.assertIn("release: slow", lines[0])
        self.assertIn("FAILED: release: bad", lines)
        self.assertIn("    line two", lines)
        self.assertIn("skipped: release: left: test_x ... skipped 'no fio'", lines)

    def test_no_tests_is_no_success(self):
        report = self.dir / "report.xml"
        report.write_text("<testsuite/>", encoding="utf-8")
        done = self.run_any(sys.executable, "-B", ROOT / "tools/summary.py", f"x={report}")
        self.assertEqual((done.returncode, done.stdout), (1, "0 passed, 0 failed, 0 skipped\n"))


class Scripts(testing.Case):
    def test_help_and_wrong_options(self):
        for script in ("quickstart", "test", "tools/dev", "tools/setup-deps"):
            with self.subTest(script=script):
                self.assertIn("usage: ", self.run_ok(ROOT / script, "--help").stdout)
        for script in ("quickstart", "tools/dev", "tools/setup-deps"):
            with self.subTest(script=script):
                self.assertIn("usage: ", self.run_fail(ROOT / script, "--wrong").stderr)


class SetupDeps(testing.Case):
    """With a dpkg-query of our own that says what is installed, and no way to become root."""

    def setUp(self):
        super().setUp()
        testing.require("dpkg-query", "apt-get")
        self.fake("dpkg-query", 'for p in $INSTALLED; do echo "installed $p"; done; echo "not-installed cmake"')
        self.fake("id", "echo 1000")
        for tool in ("bash", "awk", "sed", "grep", "readlink", "dirname", "cat", "apt-get"):
            (self.dir / tool).symlink_to(self.run_ok("sh", "-c", f"command -v {tool}").stdout.strip())

    def fake(self, name, body):
        path = self.dir / name
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="ascii")
        path.chmod(0o755)

    def setup_deps(self, *options, installed):
        return self.run_any("/bin/bash", ROOT / "tools/setup-deps", *options,
                            env={"PATH": str(self.dir), "INSTALLED": " ".join(installed)})

    def listed(self, *options, installed=()):
        done = self.setup_deps(*options, "--list", installed=installed)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.split()

    def test_each_purpose_includes_the_ones_before(self):
        build, run, test, everything = (
            set(self.listed(option)) for option in ("--build", "--run", "--test", "--all-tests"))
        self.assertIn("g++", build)
        self.assertNotIn("qemu-utils", build)
        self.assertTrue(build < run < test < everything)
        self.assertIn("clang-19", everything - test)

    def test_only_missing_packages_are_listed(self):
        build = self.listed("--build")
        self.assertEqual(self.listed("--build", installed=build), [])
        self.assertEqual(self.listed("--build", installed=build[1:]), build[:1])

    def test_nothing_missing_needs_no_root(self):
        done = self.setup_deps("--build", installed=self.listed("--build"))
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_without_root_the_remedy_is_told(self):
        build = self.listed("--build")
        done = self.setup_deps("--build", installed=build[2:])
        self.assertEqual(done.returncode, 1)
        self.assertIn(f"apt-get install --no-install-recommends {build[0]} {build[1]}", done.stderr)


if __name__ == "__main__":
    testing.main()
