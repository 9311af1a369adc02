#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The daemon and its commands: devices, sources and their numbers, events, exports, the configuration."""

import json
import os
import socket
import subprocess
import time

import testing

MIB = 1 << 20


class Daemon(testing.Case):
    """Each test has a daemon of its own, with its runtime and state folders below its scratch folder."""

    def setUp(self):
        super().setUp()
        self.lbd = testing.lbd_binary()
        self.folder = self.path("run")
        os.mkdir(self.folder, 0o700)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("LBD_")}
        self.env["LBD_RUNTIME_DIR"] = str(self.folder)
        self.socket = os.path.join(self.folder, "lbd.sock")
        for name in ("a.img", "b.img"):
            with open(self.path(name), "wb") as file:
                file.truncate(4 * MIB)

    def start_daemon(self, *options):
        process = self.start_process([self.lbd, "daemon", "--log-level", "info", *options])
        process.wait_ready(lambda: testing.accepts(self.socket))
        return process

    def start_process(self, argv):
        made = testing.Process(argv, self.path(f"log{len(os.listdir(self.path('')))}"), env=self.env)
        self.addCleanup(made.stop)
        return made

    def run_lbd(self, *words, stdin="", cwd=None):
        return subprocess.run([self.lbd, *map(str, words)], env=self.env, cwd=cwd or self.path(""), input=stdin,
                              capture_output=True, text=True, timeout=60, check=False)

    def ok(self, *words, **how):
        done = self.run_lbd(*words, **how)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)
        return done.stdout

    def fails(self, *words, **how):
        done = self.run_lbd(*words, **how)
        self.assertEqual((done.returncode, done.stdout), (1, ""), words)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def connect(self):
        link = socket.socket(socket.AF_UNIX)
        self.addCleanup(link.close)
        link.settimeout(20)
        link.connect(self.socket)
        return link, link.makefile("rb")

    def ask(self, method, **params):
        link, stream = self.connect()
        link.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n")
        answer = json.loads(stream.readline())
        link.close()
        return answer


class Devices(Daemon):
    def test_a_device_from_its_creation_to_its_removal(self):
        self.start_daemon()
        self.ok("device", "create", "d", "-u", "U-1", "--table", "0 2048 linear a.img 0", "--table",
                "2048 2048 linear ./b.img 8")
        self.assertEqual(self.ok("device", "table", "d"), "0 2048 linear 512:0 0\n2048 2048 linear 512:1 8\n")
        self.assertEqual(self.ok("device", "ls"), "d\t(253:0)\n")
        self.assertEqual(self.ok("device", "deps", "d"), "2 dependencies\t: (512, 1) (512, 0)\n")
        self.assertIn("Tables present:    LIVE\n", self.ok("device", "info", "d"))
        self.ok("device", "load", "d", stdin="# larger\n0 4096 linear a.img 0\n\n4096 8 zero\n")
        self.assertEqual(self.ok("device", "table", "--inactive", "d"), "0 4096 linear 512:0 0\n4096 8 zero \n")
        state = json.loads(self.ok("device", "info", "--json", "d"))
        self.assertEqual((state["live"], state["inactive"], state["size_bytes"]), (True, True, 2 * MIB))
        self.ok("device", "suspend", "d")
        self.ok("device", "resume", "d")
        self.assertEqual(self.ok("device", "status"), "d: 0 4096 linear \nd: 4096 8 zero \n")
        self.ok("device", "rename", "d", "e")
        self.ok("device", "remove", "e")
        self.assertEqual(self.ok("device", "ls"), "No devices found\n")

    def test_what_table_prints_loads_again_even_after_a_restart(self):
        daemon = self.start_daemon()
        self.ok("device", "create", "d", "--table", "0 8 linear b.img 0")
        self.ok("device", "create", "e", "--table", "0 8 linear mem:1M 0")
        self.ok("device", "create", "f", "--table", "0 8 linear d 0", "-r")
        tables = {name: self.ok("device", "table", name) for name in "de"}
        self.assertEqual(tables, {"d": "0 8 linear 512:0 0\n", "e": "0 8 linear 512:1 0\n"})
        self.assertEqual(self.ok("device", "table", "f"), "0 8 linear 253:0 0\n")
        self.assertEqual(daemon.stop(), 0)
        self.start_daemon()
        self.ok("device", "create", "x", "--table", "0 8 linear a.img 0")
        self.assertEqual(self.ok("device", "table", "x"), "0 8 linear 512:2 0\n", "a number of its own")
        for name, table in tables.items():
            self.ok("device", "create", name, stdin=table)
        deps = json.loads(self.ok("device", "deps", "--json", "d"))
        self.assertEqual(deps[0]["source"], str(self.path("b.img")))
        self.assertIn("(-ENXIO)", self.fails("device", "create", "y", "--table", "0 8 linear 600:5 0"))

    def test_a_failed_table_says_why_and_leaves_nothing(self):
        daemon = self.start_daemon()
        why = self.fails("device", "create", "d", "--table", "0 8 linear nosuch 0")
        self.assertIn("table: 253:0: linear: Device lookup failed (-ENODEV): ", why)
        self.assertIn("No such file", why)
        self.assertIn("device-mapper: table: 253:0: linear: Device lookup failed (-ENODEV)", daemon.output())
        self.assertIn("line 2 of the table", self.fails("device", "create", "d", stdin="0 8 zero\n0 8\n"))
        self.assertIn("no device 'd'", self.fails("device", "info", "d"))
        self.assertIn("unknown target type", self.fails("device", "create", "d", "--table", "0 8 nosuch"))
        for table, why in (("snapshot-origin nosuch", "No such file"),
                           ("snapshot a.img nosuch P 8", "No such file"),
                           ("snapshot a.img b.img P 7", "Chunk size is not a power of 2"),
                           ("multipath 0 0 1 1 round-robin 0 1 0 nosuch", "No such file"),
                           ("linear /dev/mapper/nosuch 0", "no mapped device '/dev/mapper/nosuch'"),
                           (f"crypt aes-lrw-plain64 {'00' * 32} 0 a.img 0", "'aes-lrw-plain64'")):
            self.assertIn(why, self.fails("device", "create", "d", "--table", "0 8 " + table))
        self.ok("device", "create", "e", "--no-table", "-m", "7")
        why = self.fails("device", "create", "d", "--no-table", "-m", "7")
        self.assertIn("minor number 7 is in use by device e", why)
        self.ok("device", "remove", "e")
        self.assertEqual(self.ok("device", "ls"), "No devices found\n")

    def test_names_of_any_kind_are_the_same_for_dmsetup(self):
        testing.require("dmsetup")
        self.start_daemon()
        for name in ("two words", "größe", "50%,x"):
            self.ok("device", "create", name, "-u", "U " + name, "--table", "0 8 zero")
        self.ok("device", "create", "top", "--table", "0 8 linear größe 0", "--table",
                "8 8 linear /dev/mapper/two\\ words 0")
        names = ["50%,x", "größe", "top", "two words"]
        self.assertEqual([line.split("\t")[0] for line in self.ok("device", "ls").splitlines()], names)
        self.assertEqual([d["name"] for d in self.ask("device.deps", name="top")["result"]], ["two words", "größe"])
        self.env["PATH"] += ":/usr/sbin:/sbin"
        done = self.run_lbd("dmsetup", "info", "-c", "--noheadings", "--separator", "|", "-o", "name,uuid")
        told = dict(line.split("|") for line in done.stdout.splitlines())
        self.assertEqual(told, {n: "" if n == "top" else "U " + n for n in names})
        self.assertEqual(self.run_lbd("dmsetup", "rename", "two words", "now three").returncode, 0)
        self.assertEqual(json.loads(self.ok("device", "info", "--json", "now three"))["uuid"], "U two words")

    def test_answers_as_json_are_one_document(self):
        self.start_daemon()
        for name in "ab":
            made = json.loads(self.ok("device", "create", name, "--table", "0 8 zero", "--json"))
            self.assertEqual(made["name"], name)
        for verb, suspended in (("suspend", True), ("resume", False)):
            told = json.loads(self.ok("device", verb, "--json", "a", "b"))
            self.assertEqual({name: state["suspended"] for name, state in told.items()}, {n: suspended for n in "ab"})
            self.assertEqual(json.loads(self.ok("device", verb, "--json", "a"))["suspended"], suspended)
        self.assertEqual(json.loads(self.ok("device", "clear", "--json", "a", "b")).keys(), {"a", "b"})
        self.assertEqual(json.loads(self.ok("device", "remove", "--json", "a", "b")), {"a": True, "b": True})

    def test_devices_do_not_stand_on_themselves(self):
        self.start_daemon()
        self.ok("device", "create", "a", "--table", "0 8 zero")
        self.ok("device", "create", "b", "--table", "0 8 linear a 0")
        self.ok("device", "load", "a", "--table", "0 8 linear b 0")
        self.assertIn("the device would stand on itself", self.fails("device", "resume", "a"))
        self.assertEqual(self.ok("device", "table", "a"), "0 8 zero \n", "the live table works on")
        self.ok("device", "clear", "a")
        self.ok("device", "remove", "b", "a")

    def test_a_file_that_another_program_writes_is_refused_and_one_here_is_shared(self):
        testing.require("qemu-io")
        self.start_daemon()
        self.ok("device", "create", "r", "-r", "--table", "0 8 linear a.img 0")
        self.ok("device", "create", "w", "--table", "0 8 linear a.img 0")
        locked = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", str(self.path("a.img"))],
                                capture_output=True, text=True, check=False)
        self.assertNotEqual(locked.returncode, 0, "qemu-io gets a lock that the daemon holds")
        self.ok("device", "remove", "w", "r")
        subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", str(self.path("a.img"))], check=True,
                       capture_output=True)

    def test_a_waiter_hears_of_an_event_and_one_that_has_gone_is_forgotten(self):
        self.start_daemon()
        self.ok("device", "create", "d", "--table", "0 8 zero")
        waiter = self.start_process([self.lbd, "device", "wait", "d"])
        time.sleep(0.2)
        self.assertTrue(waiter.running())
        self.ok("device", "rename", "d", "--set-uuid", "U")  # a waiter that comes only now hears of it, too
        self.assertEqual(waiter.wait(), 0)
        for _ in range(20):
            link, _ = self.connect()
            link.sendall(b'{"jsonrpc":"2.0","id":1,"method":"device.wait","params":{"name":"d","event_number":1}}\n')
            link.close()
        self.assertEqual(self.ok("shutdown"), "", "a shutdown does not wait for waiters")

    def test_hostile_requests_are_answered_and_harm_nothing(self):
        self.start_daemon()
        link, stream = self.connect()
        create = b'{"jsonrpc":"2.0","id":1,"method":"device.create","params":'
        info = b'{"jsonrpc":"2.0","id":1,"method":"device.info","params":'
        for line, code in ((b"{", -32700), (b"[]", -32600), (b'{"jsonrpc":"2.0","id":1}', -32600),
                           (b'{"jsonrpc":"2.0","id":1,"method":"device.nosuch"}', -32601),
                           (info + b'{}}', -32602),
                           (info + b'{"name":"a","uuid":"b"}}', -32602),
                           (info + b'{"number":"1:"}}', -32602),
                           (create + b'{"name":"a/b"}}', 22),
                           (create + b'{"name":3}}', -32602),
                           (create + b'{"name":"x","minor":-1}}', -32602),
                           (create + b'{"name":"x","q":1}}', -32602),
                           (info + b'{"name":"\xff"}}', -32700)):
            link.sendall(line + b"\n")
            self.assertEqual(json.loads(stream.readline())["error"]["code"], code, line)
        link.sendall(b"[" * 200000 + b"\n")
        self.assertIn("error", json.loads(stream.readline()))
        self.assertEqual(self.ask("ping")["result"], True)


class Events(Daemon):
    def test_a_monitor_prints_what_the_kernel_would_tell(self):
        self.start_daemon()
        monitor = self.start_process([self.lbd, "monitor"])
        testing.wait_until(lambda: "KERNEL - " in monitor.output(), "the monitor listens")
        self.ok("device", "create", "d", "-u", "U", "--table", "0 8 linear a.img 0")
        self.ok("device", "load", "d", "--table", "0 16 linear a.img 0")
        self.ok("device", "resume", "d")
        self.ok("device", "remove", "d")
        testing.wait_until(lambda: "ACTION=remove" in monitor.output(), "the removal is told")
        events = [dict(line.split("=", 1) for line in event.splitlines() if "=" in line)
                  for event in monitor.output().split("\n\n") if "ACTION=" in event]
        self.assertEqual([e["ACTION"] for e in events], ["add", "change", "change", "remove"])
        self.assertEqual(["RESIZE" in e for e in events], [False, False, True, False])
        self.assertEqual([int(e["SEQNUM"]) for e in events], [1, 2, 3, 4])
        for event in events:
            self.assertEqual(
                {name: event[name] for name in ("DEVPATH", "SUBSYSTEM", "DM_NAME", "DM_UUID", "MAJOR", "MINOR",
                                                "DEVNAME", "DEVTYPE")},
                {"DEVPATH": "/devices/virtual/block/dm-0", "SUBSYSTEM": "block", "DM_NAME": "d", "DM_UUID": "U",
                 "MAJOR": "253", "MINOR": "0", "DEVNAME": "/dev/dm-0", "DEVTYPE": "disk"})
        self.ok("shutdown")
        self.assertEqual(monitor.wait(), 0)

    def test_a_slow_subscriber_is_dismissed_with_a_last_line(self):
        self.start_daemon()
        slow, stream = self.connect()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(b'{"jsonrpc":"2.0","id":1,"method":"events.subscribe"}\n')
        self.assertIn(b"result", stream.readline())
        self.ok("device", "create", "d0", "--table", "0 8 zero")
        link, answers = self.connect()
        name = "d0"
        for i in range(1, 4001):
            new = f"{'d' * 100}{i}"
            link.sendall(json.dumps({"jsonrpc": "2.0", "id": i, "method": "device.rename",
                                     "params": {"name": name, "new_name": new}}).encode() + b"\n")
            self.assertIn(b"result", answers.readline())
            name = new
        lines = stream.readlines()
        self.assertEqual(json.loads(lines[-1])["method"], "events.lost")
        self.assertLess(len(lines), 4000)
        told = [json.loads(line)["params"]["sequence"] for line in lines[:-1]]
        self.assertEqual(told, list(range(1, len(told) + 1)), "no event is missing before the last line")


class Exports(Daemon):
    def setUp(self):
        super().setUp()
        testing.require("nbdinfo", "nbdcopy")
        self.start_daemon()
        self.nbd = self.path("d.nbd")

    def uri(self, name=""):
        return f"nbd+unix:///{name}?socket={self.nbd}"

    def size(self, name=""):
        done = subprocess.run(["nbdinfo", "--size", self.uri(name)], capture_output=True, text=True, check=False)
        return int(done.stdout) if done.returncode == 0 else None

    def test_an_export_follows_its_device(self):
        with open(self.path("a.img"), "r+b") as file:
            file.write(os.urandom(MIB))
        self.ok("device", "create", "d", "--table", "0 2048 linear a.img 0")
        self.assertEqual(self.ok("export", "d", "--nbd", "unix:d.nbd"), self.uri("d") + "\n")
        self.assertEqual((self.size(), self.size("d")), (MIB, MIB))
        subprocess.run(["nbdcopy", self.uri(), str(self.path("copy"))], check=True)
        with open(self.path("copy"), "rb") as copy, open(self.path("a.img"), "rb") as original:
            self.assertEqual(copy.read(), original.read(MIB))
        self.assertIn("unable to remove open device d", self.fails("device", "remove", "d"))
        self.ok("device", "load", "d", "--table", "0 4096 linear a.img 0")
        self.ok("device", "resume", "d")
        self.ok("device", "rename", "d", "e")
        self.assertEqual(self.size(), 2 * MIB)
        self.ok("export", "e", "--nbd", "unix:d.nbd", "--name", "second", "-r")
        shown = {e["export"]: e for e in json.loads(self.ok("export", "--list", "--json"))}
        self.assertEqual({n: (e["device"], e["read_only"]) for n, e in shown.items()},
                         {"d": ("e", False), "second": ("e", True)})
        self.ok("export", "--remove", "--name", "d")
        self.assertEqual((self.size("d"), self.size("second")), (None, 2 * MIB))
        self.ok("device", "remove", "--deferred", "e")
        testing.wait_until(lambda: self.ok("device", "ls") == "No devices found\n", "the last export goes by itself")
        self.assertEqual(self.ok("export", "--list"), "No exports\n")
        self.assertFalse(os.path.exists(self.nbd))

    def test_an_export_of_a_read_only_table_refuses_writes(self):
        testing.require("qemu-io")

        def write():
            done = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 4096", self.uri("d")], text=True,
                                  capture_output=True, check=False)
            return done.stdout + done.stderr

        self.ok("device", "create", "other", "--table", "0 2048 linear a.img 0")
        self.ok("device", "create", "d", "--table", "0 2048 linear a.img 0")
        self.ok("export", "d", "--nbd", "unix:d.nbd")
        for options in (["-r"], []):
            self.ok("device", "load", "d", "--table", "0 2048 linear a.img 0", *options)
            self.ok("device", "resume", "d")
            self.assertEqual("wrote 4096" in write(), not options)
            shown = json.loads(self.ok("export", "--list", "--json"))
            self.assertEqual(shown[0]["read_only"], bool(options))

    def test_an_export_says_what_the_devices_below_it_are_now(self):
        testing.require("nbdinfo")

        def set_low(*options):
            self.ok("device", "load", "low", "--table", "0 2048 linear a.img 0", *options)
            self.ok("device", "resume", "low")

        def read_only():
            told = subprocess.run(["nbdinfo", "--no-content", "--json", self.uri("d")], capture_output=True, text=True,
                                  check=True).stdout
            shown = json.loads(self.ok("export", "--list", "--json"))[0]["read_only"]
            self.assertEqual(json.loads(told)["exports"][0]["is_read_only"], shown)
            return shown

        self.ok("device", "create", "low", "--no-table")
        set_low("-r")
        self.ok("device", "create", "d", "--table", "0 2048 linear low 0")
        self.ok("export", "d", "--nbd", "unix:d.nbd")
        self.assertTrue(read_only())
        set_low()
        self.assertFalse(read_only())
        set_low("-r")
        self.assertTrue(read_only())

    def test_what_cannot_be_exported_is_told(self):
        self.assertIn("no device 'd'", self.fails("export", "d", "--nbd", "unix:d.nbd"))
        self.ok("device", "create", "d", "--no-table")
        self.assertIn("no table yet", self.fails("export", "d", "--nbd", "unix:d.nbd"))
        self.assertIn("is no address", self.fails("export", "d2", "--nbd", "nowhere"))
        self.assertEqual(self.run_lbd("export", "d").returncode, 2)
        self.ok("device", "remove", "d")

    def test_a_request_that_a_suspended_device_holds_does_not_keep_the_daemon_from_ending(self):
        testing.require("nbdcopy")
        self.ok("device", "create", "d", "--table", "0 2048 linear a.img 0")
        self.check_end_with_a_held_request("d")

    def test_nor_does_one_that_is_held_below(self):
        testing.require("nbdcopy")
        self.ok("device", "create", "low", "--table", "0 2048 linear a.img 0")
        self.ok("device", "create", "d", "--table", "0 2048 linear low 0")
        self.check_end_with_a_held_request("low")

    def check_end_with_a_held_request(self, suspended):
        self.ok("export", "d", "--nbd", "unix:d.nbd")
        self.ok("device", "suspend", suspended)
        with open(self.path("data"), "wb") as file:
            file.write(b"x" * MIB)
        writer = self.start_process(["nbdcopy", self.path("data"), self.uri()])
        testing.wait_until(lambda: ", 0 clients" not in self.ok("export", "--list"), "the writer is there")
        time.sleep(0.3)
        self.assertTrue(writer.running())
        self.ok("shutdown")
        with open(self.path("a.img"), "rb") as file:
            self.assertEqual(file.read(4096), b"x" * 4096, "the held write was done")

    def test_serve_with_a_table_in_one_step(self):
        self.nbd = self.path("s.nbd")
        server = self.start_process([self.lbd, "serve", "-r", "-u", self.nbd, "--table",
                                     f"0 2048 linear {self.path('a.img')} 0; 2048 2048 linear {self.path('b.img')} 0"])
        server.wait_ready(lambda: testing.accepts(str(self.nbd)))
        self.assertEqual(self.size(), 2 * MIB)
        told = subprocess.run(["nbdinfo", "--no-content", self.uri()], capture_output=True, text=True,
                              check=True).stdout
        self.assertIn("is_read_only: true", told)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(self.run_lbd("serve", "--table", "0 8 zero", "-f", "x").returncode, 2)
        wrong = self.run_lbd("serve", "-u", self.nbd, "--table", "8 8 zero")
        self.assertIn("Gap in table", wrong.stderr.splitlines()[-1])


class Configuration(Daemon):
    def write(self, text):
        with open(self.path("lbd.toml"), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path("lbd.toml")

    def test_devices_and_exports_are_there_from_the_start_in_the_order_they_need(self):
        testing.require("nbdinfo")
        config = self.write('''
[[export]]
device = "top"
nbd = "unix:top.nbd"
[[device]]
name = "top"
table = ["0 2048 linear low 0", "2048 2048 linear /dev/mapper/low 2048"]
[[device]]
name = "low"
uuid = "U"
minor = 7
table = """
0 4096 linear a.img 0
"""
''')
        process = self.start_daemon("--config", config)
        testing.wait_until(lambda: self.socket in process.output(), "everything is there")
        self.assertEqual(self.ok("device", "table"),
                         "low: 0 4096 linear 512:0 0\ntop: 0 2048 linear 253:7 0\ntop: 2048 2048 linear 253:7 2048\n")
        self.assertEqual(json.loads(self.ok("device", "info", "--json", "low"))["uuid"], "U")
        size = subprocess.run(["nbdinfo", "--size", f"nbd+unix:///top?socket={self.path('top.nbd')}"],
                              capture_output=True, text=True, check=True).stdout
        self.assertEqual(int(size), 2 * MIB)

    def test_what_is_wrong_is_told_with_its_line(self):
        for text, line, why in (
                ('[[device]]\nname="x"\nfoo=1\ntable="0 8 zero"\n', 3, "'foo' is not known"),
                ('[[device]]\nname="x"\ntable="0 8"\n', 3, "line 1 of the table"),
                ('[[device]]\nname="x"\n', 1, "table is missing"),
                ('[[device]\n', 1, "parsing"),
                ('device=1\n', 1, "write [[device]]"),
                ('\n[other]\n', 2, "'other' is not known"),
                ('[[export]]\ndevice="x"\nnbd="unix:y"\n', 1, "no device 'x'"),
                ('[[device]]\nname="x"\ntable="0 8 linear y 0"\n[[device]]\nname="y"\ntable="0 8 linear x 0"\n', 1,
                 "circle"),
                ('[[device]]\nname="x"\ntable="0 8 linear nosuch 0"\n', 1, "No such file")):
            config = self.write(text)
            done = self.run_lbd("daemon", "--config", config, "--strict", "--log-level", "off")
            self.assertEqual((done.returncode, done.stdout), (1, ""), text)
            self.assertIn(f"{config}:{line}: ", done.stderr)
            self.assertIn(why, done.stderr)

    def test_what_can_be_made_is_there_and_the_rest_is_told(self):
        config = self.write('''
[[device]]
name = "good"
table = "0 8 linear a.img 0"
[[device]]
name = "on-bad"
table = "0 8 linear bad 0"
[[device]]
name = "bad"
table = "0 8 linear nosuch.img 0"
[[device]]
name = "higher"
table = ["0 8 zero", "8 8 linear /dev/mapper/on-bad 0"]
[[export]]
device = "higher"
nbd = "unix:higher.nbd"
[[export]]
device = "good"
nbd = "unix:good.nbd"
[[export]]
device = "good"
nbd = "unix:no/such/folder"
''')
        process = self.start_daemon("--config", config)
        testing.wait_until(lambda: self.socket in process.output(), "everything was tried")
        self.assertEqual(self.ok("device", "ls"), "good\t(253:0)\n")
        self.assertTrue(testing.accepts(self.path("good.nbd")))
        # The numbers of those that are missing are theirs at the next start.
        self.ok("device", "create", "new", "--table", "0 8 zero")
        self.assertEqual(json.loads(self.ok("device", "info", "--json", "new"))["minor"], 4)
        told = [line for line in self.ok("info").splitlines() if line.startswith("not restored: ")]
        self.assertEqual(told, [f"not restored: {m}" for m in json.loads(self.ok("info", "--json"))["missing"]])
        self.assertEqual(len(told), 5, told)
        for line, (number, device, why) in zip(told, (
                (8, "device 'bad': ", "nosuch.img': No such file"),
                (5, "device 'on-bad': ", "device 'bad' (line 8), which is missing"),
                (11, "device 'higher': ", "device 'on-bad' (line 5), which is missing"),
                (14, "export: ", "device 'higher' (line 11), which is missing"),
                (20, "", "no/such/folder"))):
            self.assertIn(f"{config}:{number}: {device}", line)
            self.assertIn(why, line)
        self.assertEqual(process.stop(), 0)
        text = process.log.read_text("utf-8")
        for line in told:
            self.assertEqual(text.count(line.removeprefix("not restored: ")), 1, text)
        self.assertEqual(self.run_lbd("daemon", "--config", config, "--strict", "--log-level", "off").returncode, 1)
        self.assertEqual(self.run_lbd("daemon", "--strict").returncode, 2)

    def test_two_merges_into_one_origin_are_refused(self):
        for name in ("m1.img", "m2.img"):
            with open(self.path(name), "wb") as file:
                file.truncate(MIB)
        config = self.write('''
[[device]]
name = "origin"
table = "0 2048 snapshot-origin a.img"
[[device]]
name = "first"
table = "0 2048 snapshot-merge a.img m1.img P 8"
[[device]]
name = "second"
table = "0 2048 snapshot-merge ./a.img m2.img P 8"
[[device]]
name = "other"
table = "0 2048 snapshot-merge b.img m2.img P 8"
''')
        process = self.start_daemon("--config", config)
        testing.wait_until(lambda: self.socket in process.output(), "everything was tried")
        self.assertEqual(self.ok("device", "ls"), "other\t(253:3)\n")
        told = json.loads(self.ok("info", "--json"))["missing"]
        same = "merges into the same origin, and only one can at a time"
        for text, line, why in zip(told, (5, 8, 2), (
                f"device 'second' (line 8) {same}", f"device 'first' (line 5) {same}",
                "it writes to the origin of snapshot 'first' (line 5), which is missing"), strict=True):
            self.assertIn(f"{config}:{line}: ", text)
            self.assertIn(why, text)


class Service(Daemon):
    def test_the_service_manager_is_told_and_hands_over_the_socket(self):
        notify_path = self.path("notify")
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(notify.close)
        notify.bind(str(notify_path))
        notify.settimeout(20)
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(self.socket)
        listener.listen(8)
        environment = dict(self.env, NOTIFY_SOCKET=str(notify_path), LISTEN_FDS="1")
        # LISTEN_PID is the daemon's own id: the shell becomes the daemon.
        script = 'exec 3<&0 </dev/null; LISTEN_PID=$$ exec "$0" daemon --pid-file "$1"'
        daemon = subprocess.Popen(["/bin/sh", "-c", script, self.lbd, str(self.path("pid"))], env=environment,
                                  stdin=listener.fileno(), stdout=subprocess.DEVNULL)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        self.assertEqual(notify.recv(100), b"READY=1")
        self.assertEqual(self.ok("ping"), "true\n")
        with open(self.path("pid"), encoding="utf-8") as file:
            self.assertEqual(int(file.read()), daemon.pid)
        daemon.terminate()
        self.assertEqual(notify.recv(100), b"STOPPING=1")
        self.assertEqual(daemon.wait(20), 0)
        self.assertFalse(os.path.exists(self.path("pid")))
        self.assertTrue(os.path.exists(self.socket), "the socket is the service manager's")

    def activated(self, addresses, *command):
        """Starts a program with sockets that listen at these addresses."""
        testing.require("systemd-socket-activate")
        words = [word for address in addresses for word in ("-l", str(address))]
        words += ["-E", f"LBD_RUNTIME_DIR={self.folder}"]
        # The sockets are there before the program, which comes with the first client.
        process = self.start_process(["systemd-socket-activate", *words, *map(str, command)])
        process.wait_ready(lambda: "Listening on" in process.output())
        return process

    def test_the_lines_of_the_unit_files(self):
        def line_of(unit, name):
            text = (testing.SOURCE_DIR / "packaging" / unit).read_text(encoding="utf-8")
            return next(line.split("=", 1)[1] for line in text.splitlines() if line.startswith(name + "="))

        config = self.path("lbd.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write('[[device]]\nname = "d"\ntable = "0 8 zero"\n')
        places = {"/usr/bin/lbd": self.lbd, "/etc/lbd.toml": config}
        self.assertEqual(line_of("lbd.socket", "ListenStream"), "/run/lbd/lbd.sock")
        command = [places.get(word, word) for word in line_of("lbd.service", "ExecStart").split()]
        daemon = self.activated([self.socket], *command)
        self.assertEqual(self.ok("device", "table", "d"), "0 8 zero \n")
        self.ok("shutdown")
        self.assertEqual(daemon.wait(), 0)
        self.assertTrue(os.path.exists(self.socket), "the socket is the service manager's")

    def test_serve_with_a_table_takes_the_sockets_handed_over(self):
        testing.require("nbdinfo")
        path, port = self.path("s.nbd"), testing.free_port()
        server = self.activated([path, f"127.0.0.1:{port}"], self.lbd, "serve", "--socket", self.path("s.sock"),
                                "--table", f"0 2048 linear {self.path('a.img')} 0")
        for uri in (f"nbd+unix:///?socket={path}", f"nbd://127.0.0.1:{port}"):
            told = subprocess.run(["nbdinfo", "--size", uri], capture_output=True, text=True, check=True).stdout
            self.assertEqual(int(told), MIB)
        self.assertIn(f"nbd+unix:///?socket={path}", server.output())
        self.assertEqual(server.stop(), 0)
        self.assertTrue(os.path.exists(path), "the socket is the service manager's")


if __name__ == "__main__":
    testing.main()
