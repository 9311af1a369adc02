# SPDX-License-Identifier: MIT
"""Helpers for black-box tests: scratch folders, servers that never outlive their test, tools that may be absent.

A test file looks like this:

    import testing

    class Reads(testing.Case):
        def test_reads_zeros(self):
            testing.require("nbdinfo")
            server = self.serve("-s", "1M", "-E", self.path("top.qcow2"))
            self.assertIn("1048576", self.run_ok("nbdinfo", "--size", server.uri).stdout)

    if __name__ == "__main__":
        testing.main()
"""

import ctypes
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

SKIPPED = 77  # the exit status that the test driver counts as skipped

SOURCE_DIR = pathlib.Path(
    os.environ.get("LBD_SOURCE_DIR", pathlib.Path(__file__).resolve().parents[2]))


def lbd_binary():
    """The program under test; a test that needs it is skipped where it has not been built."""
    path = os.environ.get("LBD_BIN", str(SOURCE_DIR / "build/bin/lbd"))
    if not os.access(path, os.X_OK):
        raise unittest.SkipTest(f"{path} is not built")
    return path


def require(*tools):
    """Skips the test unless all these programs are installed (sbin folders count)."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [tool for tool in tools if not shutil.which(tool, path=path)]
    if missing:
        raise unittest.SkipTest("not installed: " + ", ".join(missing))


def require_module(name):
    """Skips the test unless this Python module can be imported; returns the module."""
    try:
        return __import__(name)
    except ImportError:
        raise unittest.SkipTest(f"no Python module {name}") from None


def free_port(host="127.0.0.1"):
    """A TCP port that was free a moment ago. Never the same one twice in this process."""
    for _ in range(100):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        if port not in _given_ports:
            _given_ports.add(port)
            return port
    raise RuntimeError("no free TCP port")


_given_ports = set()


def wait_until(condition, what, timeout_s=20):
    """Polls condition() until it returns something true, and returns that; fails with `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout_s} s still not: {what}")
        time.sleep(0.01)


def accepts(address):
    """True when somebody listens at `address`: a Unix socket path, or a (host, port) pair."""
    family = socket.AF_UNIX
    if not isinstance(address, str):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(5)
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def unmount_below(folder):
    """Takes away what killed daemons have left mounted in a scratch folder."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        places = [line.split()[4] for line in table]
    for place in places:
        if place.startswith(f"{folder}/"):
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*command, place], capture_output=True, check=False)


def _die_with_parent():
    """Runs in the child before exec: a test that is killed takes its servers with it."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class Process:
    """A program in the background with its output in a file; `stop` is safe to call at any time."""

    def __init__(self, argv, log, env=None):
        self.argv = [str(arg) for arg in argv]
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as output:
            self.popen = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=env, preexec_fn=_die_with_parent)

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def wait_ready(self, ready, timeout_s=20):
        """Waits for ready() to become true; a program that ends first fails the test with its output."""
        def ready_or_dead():
            return ready() or not self.running()

        wait_until(ready_or_dead, f"{self.argv[0]} is ready", timeout_s)
        if not self.running():
            raise AssertionError(
                f"{' '.join(self.argv)} ended with status {self.popen.returncode}:\n{self.output()}")

    def signal(self, number):
        self.popen.send_signal(number)

    def wait(self, timeout_s=20):
        """The exit status (negative: the signal that ended it)."""
        return self.popen.wait(timeout_s)

    def stop(self, timeout_s=20):
        """SIGTERM, then SIGKILL for what does not end in time. Returns the exit status."""
        if self.running():
            self.popen.terminate()
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(
                f"{' '.join(self.argv)} did not end within {timeout_s} s of SIGTERM:\n"
                f"{self.output()}") from None

    def kill(self):
        """SIGKILL: what a crash of the program looks like to everybody else."""
        if self.running():
            self.popen.kill()
        self.popen.wait()


class Case(unittest.TestCase):
    """A test case with a scratch folder of its own and background programs that are always stopped."""

    maxDiff = 2000

    def setUp(self):
        super().setUp()
        # Directly under the system's temporary folder: Unix socket paths have to stay below 108 bytes.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lbd-test-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(unmount_below, self.dir)
        self._log_count = 0

    def path(self, name):
        """The path of a file in the scratch folder, as a string."""
        return str(self.dir / name)

    def start(self, argv, ready=None, env=None, timeout_s=20):
        """Starts a program in the background and waits for ready(); it is killed when the test ends."""
        self._log_count += 1
        log = self.dir / f"log-{self._log_count}-{pathlib.Path(str(argv[0])).name}"
        process = Process(argv, log, env)
        self.addCleanup(process.kill)
        if ready is not None:
            process.wait_ready(ready, timeout_s)
        return process

    def serve(self, *args, name="", env=None):
        """`lbd serve` with these arguments on a fresh Unix socket. The result also has .socket, .uri, .control.

        `name` is the export's name. Give the process a graceful end with .stop(); it is killed otherwise.
        """
        self._log_count += 1
        nbd_socket = self.path(f"nbd{self._log_count}.sock")
        control = self.path(f"ctl{self._log_count}.sock")
        named = ["--name", name] if name else []
        process = self.start(
            [lbd_binary(), "serve", "-u", nbd_socket, "--socket", control, *named, *args],
            ready=lambda: accepts(nbd_socket), env=env)
        process.socket = nbd_socket
        process.uri = f"nbd+unix:///{name}?socket={nbd_socket}"
        process.control = control
        return process

    def run_any(self, *argv, stdin=None, env=None, timeout_s=60):
        """Runs a program to its end; returns the completed process with text in .stdout and .stderr."""
        return subprocess.run(
            [str(arg) for arg in argv], input=stdin, env=env, timeout=timeout_s, text=True,
            errors="replace", capture_output=True, stdin=subprocess.DEVNULL if stdin is None else None,
            check=False)

    def run_ok(self, *argv, **options):
        """As run_any; any exit status but 0 fails the test and shows what the program said."""
        done = self.run_any(*argv, **options)
        if done.returncode != 0:
            self.fail(f"{' '.join(map(str, argv))}: exit status {done.returncode}\n"
                      f"{done.stdout}{done.stderr}")
        return done

    def run_fail(self, *argv, **options):
        """As run_any; exit status 0, or an end by a signal, fails the test."""
        done = self.run_any(*argv, **options)
        if done.returncode <= 0:
            self.fail(f"{' '.join(map(str, argv))}: exit status {done.returncode}, an error was expected\n"
                      f"{done.stdout}{done.stderr}")
        return done


def main():
    """Runs the tests of the calling file. Exit status 77 when every single one was skipped."""
    program = unittest.main(module="__main__", exit=False, verbosity=2)
    result = program.result
    if not result.wasSuccessful() or result.testsRun == 0:
        sys.exit(1)
    sys.exit(SKIPPED if len(result.skipped) == result.testsRun else 0)
