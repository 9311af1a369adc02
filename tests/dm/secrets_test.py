# SPDX-License-Identifier: MIT
"""The keys of crypt devices are where they have to be and nowhere else: not in logs, answers, core dumps, and gone
from the daemon's memory when the device is."""

import os
import resource
import signal
import socket
import unittest

import mapped
import testing

KEY = os.urandom(64).hex()
TABLE = f"0 2048 crypt aes-xts-plain64 {KEY} 0 {{disk}} 0"


class Secrets(mapped.Case):
    def daemon(self, *options):
        """`lbd daemon` with core dumps allowed; its .socket is for the other commands."""
        path = self.path("lbd.sock")
        limit = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limit[1], limit[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, limit)
        argv = [testing.lbd_binary(), "daemon", "--socket", path, *options]
        process = self.start(["env", "-C", self.path("state"), *argv],
                             ready=lambda: testing.accepts(path), env=self.env)
        process.socket = path
        return process

    def lbd(self, *argv):
        return self.run_any(testing.lbd_binary(), *argv, env=self.env)

    def test_neither_logs_nor_answers_tell_keys(self):
        daemon = self.daemon("--log-level", "debug")
        disk = self.make_disk(1 << 20)
        to = ("--socket", daemon.socket)
        told = ""
        for table in (TABLE.format(disk=disk), TABLE.format(disk="/nosuch"), TABLE.format(disk=disk) + " 1 bogus",
                      TABLE.format(disk=disk).replace("aes-xts", "aes-nosuch"), TABLE.format(disk=disk) + " x",
                      TABLE.format(disk=disk).replace(KEY, KEY[:-1]), "0 2048 linear " + KEY):
            done = self.lbd("device", "create", "d", "--table", table, *to)
            told += done.stdout + done.stderr
            if done.returncode == 0:
                for command in (("table", "d"), ("status", "d"), ("info", "d"), ("ls",)):
                    for more in ((), ("--json",)):
                        shown = self.lbd("device", *command, *more, *to)
                        self.assertEqual(shown.returncode, 0, shown.stderr)
                        told += shown.stdout + shown.stderr
                for words in (("key", "set", KEY), ("key", "set", KEY[2:]), ("key", "bogus", KEY), (KEY,)):
                    shown = self.lbd("device", "message", "d", "0", *words, *to)
                    told += shown.stdout + shown.stderr
                self.lbd("device", "suspend", "d", *to)
                told += self.lbd("device", "message", "d", "0", "key", "set", KEY[2:], *to).stderr
                self.lbd("device", "remove", "d", *to)
        told += daemon.output()
        self.assertIn("crypt", told)
        self.assertNotIn(KEY[:64], told.lower())
        self.assertNotIn(KEY[-64:], told.lower())

    def test_the_arguments_of_a_server_do_not_tell_its_key(self):
        path = self.path("s.nbd")
        disk = self.make_disk(1 << 20)
        table = TABLE.format(disk=disk)
        server = self.start([testing.lbd_binary(), "serve", "-u", path, "--table", table], env=self.env,
                            ready=lambda: testing.accepts(path))
        with open(f"/proc/{server.pid}/cmdline", encoding="utf-8") as file:
            words = file.read().split("\0")
        self.assertEqual(words[-2], table.replace(KEY, "*" * len(KEY)))

    def test_the_arguments_of_a_message_do_not_tell_its_key(self):
        path = self.path("silent.sock")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(path)
            silent.listen()
            silent.settimeout(20)
            for words in (("key", "set", KEY), ("KEY", "Set", KEY), (f"key set {KEY}",), ("key  set", KEY)):
                client = self.start([testing.lbd_binary(), "device", "message", "crypt", "0", *words, "--socket", path],
                                    env=self.env)
                accepted, _ = silent.accept()
                with accepted, open(f"/proc/{client.pid}/cmdline", encoding="utf-8") as file:
                    shown = file.read().split("\0")
                self.assertEqual(shown[5:-3], [word.replace(KEY, "*" * len(KEY)) for word in words])

    def killed(self, with_key):
        """How a daemon, with or without a key, ends after a signal that dumps core."""
        daemon = self.daemon()
        disk = self.make_disk(1 << 20)
        table = TABLE.format(disk=disk) if with_key else f"0 2048 linear {disk} 0"
        self.assertEqual(self.lbd("device", "create", "d", "--table", table, "--socket", daemon.socket).returncode, 0)
        os.kill(daemon.pid, signal.SIGSEGV)
        _, status = os.waitpid(daemon.pid, 0)
        daemon.popen.returncode = -1
        os.remove(daemon.socket)
        return os.WCOREDUMP(status)

    def test_no_core_dump_when_there_are_keys(self):
        if not self.killed(with_key=False):
            self.skipTest("this machine makes no core dumps")
        self.assertFalse(self.killed(with_key=True))

    @unittest.skipIf(os.environ.get("LBD_SANITIZE"), "a sanitizer keeps freed memory")
    def test_memory_is_wiped(self):
        for way in ("device", "dmsetup"):
            with self.subTest(way=way):
                self.look_for_a_key(way)

    def look_for_a_key(self, way):
        """Makes and removes a device by one of the two interfaces; nothing of its key is left then."""
        daemon = self.daemon()
        disk = self.make_disk(1 << 20)
        to = ("--socket", daemon.socket)
        table = ("create", "d", "--table", TABLE.format(disk=disk))
        if way == "device":
            made = self.lbd("device", *table, *to)
        else:
            made = self.lbd("run", *to, "--", "dmsetup", *table)
        self.assertEqual(made.returncode, 0, made.stderr)
        try:
            self.assertIn(bytes.fromhex(KEY), self.memory(daemon.pid))
        except (PermissionError, OSError):
            self.skipTest("no look into another process's memory")
        self.assertEqual(self.lbd("device", "remove", "d", *to).returncode, 0)
        left = self.memory(daemon.pid)
        self.assertNotIn(bytes.fromhex(KEY), left)
        self.assertNotIn(bytes.fromhex(KEY[:64]), left)
        self.assertNotIn(KEY.encode(), left)
        daemon.stop()
        os.remove(disk)
        self.disks = []

    def memory(self, pid):
        """What the process can write to."""
        parts = []
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
            for line in maps:
                place, rights, *_ = line.split()
                if not rights.startswith("rw") or "[v" in line:
                    continue
                begin, end = (int(word, 16) for word in place.split("-"))
                mem.seek(begin)
                try:
                    parts.append(mem.read(end - begin))
                except OSError:
                    continue
        return b"".join(parts)


if __name__ == "__main__":
    testing.main()
