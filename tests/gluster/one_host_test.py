# SPDX-License-Identifier: MIT
"""Images on a real Gluster volume: one server, three replicas, whatever may happen to them."""

import hashlib
import json
import os
import pathlib
import socket
import subprocess
import threading
import time

import cluster
import testing

MIB = 1 << 20
JUDGE_S = 90  # QEMU's tools take ten seconds for each connection that they close


def digest(path, length=None):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        found.update(file.read() if length is None else file.read(length))
    return found.hexdigest()


def content(path, offset, length):
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


class Case(testing.Case):
    """`volume` is the tests' own where they do something to it; others share one."""
    hosts = 1
    servers = None
    volume = "vol"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.servers = cluster.Cluster(cls.hosts)
        cls.addClassCleanup(cls.servers.close)
        cls.servers.make_volume("vol")

    def setUp(self):
        super().setUp()
        testing.require("qemu-img", "qemu-io", "fio", "nbdinfo")
        self.lbd = testing.lbd_binary()
        self.cluster = self.servers
        self.volume = "vol"
        quick_end = pathlib.Path(os.environ.get("LBD_BUILD_DIR", "build")) / "tests/gluster/quick_end.so"
        self.qemu_env = dict(os.environ, LD_PRELOAD=str(quick_end)) if quick_end.exists() else None

    def own_volume(self, **options):
        self.volume = self.id().rsplit(".", 1)[-1].replace("_", "-")
        self.cluster.make_volume(self.volume, **options)

    def uri(self, path):
        return self.cluster.uri(path, self.volume)

    def qemu(self, *words):
        return self.run_ok(*words, env=self.qemu_env, timeout_s=JUDGE_S)

    def make(self, name, size):
        self.run_ok(self.lbd, "image", "create", self.uri(name), size)
        return self.uri(name)

    def lbd_json(self, *words):
        return json.loads(self.run_ok(self.lbd, *words, "--json").stdout)

    def io(self, server, *commands, ok=True):
        words = [word for command in commands for word in ("-c", command)]
        run = self.run_ok if ok else self.run_any
        done = run("qemu-io", "-f", "raw", *words, server.uri, timeout_s=JUDGE_S)
        return done.stdout + done.stderr

    def brick(self, name):
        """The image as one of the servers has it."""
        return self.cluster.brick_paths(self.volume)[0] / name

    def assert_bricks_equal(self, name):
        def equal():
            self.cluster.wait_healed(self.volume)
            return len({digest(brick / name) for brick in self.cluster.brick_paths(self.volume)}) == 1

        # Servers may note what is to be healed a moment after they have answered.
        testing.wait_until(equal, "the bricks are equal", 30)

    def fio(self, uri, *options, ok=True, timeout_s=120):
        words = ["fio", "--ioengine=nbd", f"--uri={uri}", "--name=verify", "--randseed=7", "--verify=crc32c",
                 "--verify_fatal=1", "--do_verify=1", "--minimal", f"--aux-path={self.dir}", *options]
        return (self.run_ok if ok else self.run_any)(*words, timeout_s=timeout_s)

    def start_fio(self, uri, *options):
        return self.start(["fio", "--ioengine=nbd", f"--uri={uri}", "--name=load", "--randseed=7", "--verify=crc32c",
                           "--verify_fatal=1", "--do_verify=1", "--minimal", f"--aux-path={self.dir}", *options])


class OneHost(Case):
    def test_life_of_an_image(self):
        self.assertLess(self.cluster.start_took_s, 15)
        uri = self.make("life.img", "64M")
        self.assertEqual(self.lbd_json("image", "info", uri)["size_bytes"], 64 * MIB)
        again = self.run_fail(self.lbd, "image", "create", uri, "64M")
        self.assertIn("File exists", again.stderr)
        self.run_ok(self.lbd, "image", "resize", uri, "96M")
        self.assertIn("--shrink", self.run_fail(self.lbd, "image", "resize", uri, "32M").stderr)
        self.run_ok(self.lbd, "image", "resize", "--shrink", uri, "32M")
        listed = self.lbd_json("image", "ls", self.uri(""))
        self.assertIn(("life.img", 32 * MIB), [(i["name"], i["size_bytes"]) for i in listed])
        server = self.serve("-f", uri)
        self.io(server, "write -P 0x5a 1M 3M", "write -z 2M 1M", "discard 3M 64k", "flush")
        extents = self.run_ok("nbdinfo", "--map", server.uri).stdout
        self.assertRegex(extents, r"1048576\s+1048576\s+0\s+data")
        self.assertRegex(extents, r"2097152\s+1114112\s+3\s+hole,zero")
        # Afterwards: what a brick has read of its zeros lies in its page cache, and is data for ext4 then.
        self.io(server, "read -P 0x5a 1M 1M", "read -P 0 2M 1088k", "read -P 0x5a 3136k 960k")
        begin = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - begin, 5)
        self.assert_bricks_equal("life.img")
        self.run_ok(self.lbd, "image", "rm", uri)
        gone = self.run_fail(self.lbd, "serve", "-u", self.path("x"), "-f", uri)
        self.assertIn("No such file or directory", gone.stderr)
        wrong = self.run_fail(self.lbd, "image", "info", self.cluster.uri("a", name="none"))
        self.assertIn("cannot connect to Gluster volume 'none'", wrong.stderr)

    def test_the_librarys_log(self):
        uri = self.make("log.img", "1M")
        info = [self.lbd, "image", "info"]
        self.assertEqual(self.run_ok(*info, uri).stderr, "")
        near, far = socket.socketpair()  # as under systemd
        with near, far:
            for stream in (near, None):
                close = None if stream else lambda: os.close(2)
                done = subprocess.run([*info, uri], stdout=subprocess.PIPE, stderr=stream, preexec_fn=close,
                                      timeout=60, check=False)
                self.assertEqual(done.returncode, 0)
        done = subprocess.run([*info, uri + "?logfile=g.log&debug=9"], capture_output=True, cwd=self.dir, timeout=60,
                              check=True)
        self.assertEqual(done.stderr, b"")
        log = pathlib.Path(self.path("g.log")).read_text(encoding="utf-8")
        self.assertTrue(" T [" in log and "0-vol-client-2" in log)
        refused = self.run_fail(*info, f"{uri}?logfile={self.dir}").stderr
        self.assertIn(f"cannot write the log of Gluster's library to '{self.dir}': Is a directory", refused)
        # A file that standard error goes to holds what both have written.
        with open(self.path("both"), "wb") as both:
            done = subprocess.run([*info, f"gluster+rdma://{self.cluster.address}/vol/log.img?loglevel=7"],
                                  stdout=both, stderr=both, timeout=60, check=True)
        both = pathlib.Path(self.path("both")).read_text(encoding="utf-8")
        for said in ("tcp instead", "1048576 (1 MiB)", "switched to graph"):
            self.assertIn(said, both)

    def test_a_folder_is_shown(self):
        for folder in (f"gluster://{self.cluster.address}/vol", self.uri("")):
            self.assertIn("a folder", self.run_ok(self.lbd, "image", "info", folder).stdout)
        missing = self.run_fail(self.lbd, "image", "create", self.uri("none/a.img"), "1M").stderr
        self.assertIn("No such file or directory (is its folder there?)", missing)

    def test_fio_verifies(self):
        uri = self.make("fio.img", "64M")
        server = self.serve("-f", uri)
        self.fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=8m", "--iodepth=32")
        self.fio(server.uri, "--rw=write", "--bs=256k", "--size=32m", "--iodepth=8")
        self.fio(server.uri, "--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=0", "--blockalign=512",
                 "--size=4m", "--offset=40m", "--iodepth=16", "--fsync=64")
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("fio.img")

    def test_qemu_is_judge(self):
        raw, image = self.make("raw.img", "32M"), self.uri("image.qcow2")
        server = self.serve("-f", raw)
        self.io(server, "write -P 1 0 1M", "write -P 2 5M 64k", "write -z 20M 1M", "flush")
        # QEMU's own driver reads what LBD wrote, and the other way round.
        copy = self.path("copy.raw")
        self.qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", raw, copy)
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", copy, server.uri)
        self.assertEqual(server.stop(), 0)
        self.qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", copy, image)
        below = self.serve("-r", "-E", image)
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", copy, below.uri)
        self.assertEqual(below.stop(), 0)
        top = self.uri("top.qcow2")
        stack = self.serve("-E", top, "-E", image)
        self.io(stack, "write -P 7 1M 128k", "discard 5M 64k", "flush")
        flat = self.path("flat.raw")
        self.qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", stack.uri, flat)
        self.assertEqual(stack.stop(), 0)
        self.qemu("qemu-img", "check", top)
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "qcow2", flat, top)

    def test_a_dirty_change_file_is_left_to_qemu(self):
        image = self.uri("dirty.qcow2")
        self.qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "8M")
        self.run_any("qemu-io", "-f", "qcow2", "-c", "write -P 5 1M 3M", "-c", "flush", "-c", "abort", image,
                     env=self.qemu_env, timeout_s=JUDGE_S)
        refused = self.run_fail(self.lbd, "serve", "-u", self.path("x"), "-E", image)
        self.assertIn("is marked dirty", refused.stderr)
        self.qemu("qemu-img", "check", "-r", "all", image)
        server = self.serve("-E", image)
        self.io(server, "read -P 5 1M 3M", "write -P 6 5M 64k", "flush")
        self.assertEqual(server.stop(), 0)
        self.qemu("qemu-img", "check", image)

    def test_a_brick_dies_and_heals(self):
        self.own_volume()
        uri = self.make("a.img", "64M")
        server = self.serve("-f", uri)
        load = self.start_fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=24m", "--iodepth=16", "--loops=2",
                              "--fsync=128", "--rate_iops=,2000")  # 6 s on any machine
        time.sleep(1)
        self.cluster.kill_bricks(1, self.volume)
        time.sleep(2)
        self.assertTrue(load.running(), "the load was too short to see anything")
        self.cluster.restore_bricks(self.volume)
        self.assertEqual(load.wait(120), 0, load.output())
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("a.img")

    def test_quorum_is_lost_and_returns(self):
        self.own_volume()
        server = self.serve("--name", "flat", "-f", self.make("a.img", "64M"),
                            "--name", "change", "-s", "8M", "-E", self.uri("change.qcow2"))
        exports = [f"nbd+unix:///{name}?socket={server.socket}" for name in ("flat", "change")]

        def io(uri, *commands):
            done = self.run_any("qemu-io", "-f", "raw", *[w for c in commands for w in ("-c", c)], uri,
                                timeout_s=JUDGE_S)
            said = done.stdout + done.stderr
            return said if "failed" in said or done.returncode != 0 else ""

        for uri in exports:
            self.assertEqual(io(uri, "write -P 1 0 64k", "flush", "write -P 4 1M 64k"), "")
        self.cluster.kill_bricks(2, self.volume)
        time.sleep(1)
        for uri in exports:
            self.assertNotEqual(io(uri, "write -P 2 0 64k"), "")
        self.cluster.restore_bricks(self.volume)
        for uri in exports:
            testing.wait_until(lambda u=uri: not io(u, "write -P 3 64k 64k", "flush"), "it works again", 30)
            self.assertEqual(io(uri, "read -P 3 64k 64k", "read -P 4 1M 64k"), "", server.output())
        self.assertEqual(server.stop(), 0)
        self.assertIn("works again", server.output())
        for name in ("a.img", "change.qcow2"):
            self.assert_bricks_equal(name)
        self.qemu("qemu-img", "check", self.uri("change.qcow2"))
        self.qemu("qemu-io", "-f", "qcow2", "-c", "read -P 3 64k 64k", "-c", "read -P 4 1M 64k",
                  self.uri("change.qcow2"))

    def test_a_volume_stops_and_starts(self):
        self.own_volume()
        uri = self.make("a.img", "64M")
        other = self.path("flat.img")
        pathlib.Path(other).write_bytes(bytes(MIB))
        server = self.serve("--name", "on-gluster", "-f", uri, "--name", "flat", "-f", other)
        on_gluster = f"nbd+unix:///on-gluster?socket={server.socket}"
        flat = f"nbd+unix:///flat?socket={server.socket}"
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 64k", "-c", "flush", on_gluster)
        self.cluster.gluster("volume", "stop", self.volume)
        failed = self.run_any("qemu-io", "-f", "raw", "-c", "read 0 64k", on_gluster, timeout_s=60)
        self.assertIn("failed", failed.stdout + failed.stderr)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 2 0 64k", "-c", "flush", flat)
        self.cluster.gluster("volume", "start", self.volume)

        def works():
            done = self.run_any("qemu-io", "-f", "raw", "-c", "read -P 1 0 64k", on_gluster)
            return "failed" not in done.stdout + done.stderr

        testing.wait_until(works, "the image can be read again", 40)

        def is_locked():
            return "in use by another" in self.run_any(self.lbd, "image", "resize", "--shrink", uri, "64M").stderr

        # The servers have forgotten it.
        testing.wait_until(is_locked, "the image is locked again", 20)
        self.assertEqual(server.stop(), 0)

    def test_options_and_size_change_under_load(self):
        self.own_volume()
        server = self.serve("-f", self.make("a.img", "32M"))
        load = self.start_fio(server.uri, "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=16", "--loops=4",
                              "--fsync=128", "--rate_iops=,3000")  # 5 s on any machine
        # Each makes the library build another stack of translators and move the open file over.
        for value in ("off", "on", "off"):
            time.sleep(0.5)
            self.cluster.gluster("volume", "set", self.volume, "performance.stat-prefetch", value)
        self.assertTrue(load.running(), "the load was too short to see anything")
        self.run_ok(self.lbd, "image", "resize", self.uri("a.img"), "64M")
        self.assertEqual(load.wait(120), 0, load.output())
        self.assertEqual(server.stop(), 0)
        self.assert_bricks_equal("a.img")

    def test_twenty_images_at_once(self):
        names = [f"image{i}" for i in range(20)]
        layers = []
        for name in names:
            self.make(name, "8M")
            layers += ["--name", name, "-f", self.cluster.uri(name)]
        server = self.serve(*layers)
        # One connection: the library has about eleven threads for each.
        threads = len(os.listdir(f"/proc/{server.pid}/task"))
        self.assertLess(threads, 40)
        loads = [self.start_fio(f"nbd+unix:///{name}?socket={server.socket}", "--rw=randwrite", "--bs=16k",
                                "--size=4m", "--iodepth=4") for name in names]
        for load in loads:
            self.assertEqual(load.wait(120), 0, load.output())
        self.assertEqual(server.stop(), 0)
        for name in names:
            self.assert_bricks_equal(name)

    def test_fails_over_between_servers_at_open(self):
        self.make("over.img", "8M")
        dead_first = f"gluster://{self.cluster.address}:24010/vol/over.img?server={self.cluster.address}"
        server = self.serve("-f", dead_first)
        self.io(server, "write -P 1 0 64k", "flush")
        with socket.create_server(("127.0.0.1", 0)) as hangs:  # takes connections, says nothing
            silent_first = f"gluster://127.0.0.1:{hangs.getsockname()[1]}/vol/over.img?server={self.cluster.address}"
            begin = time.monotonic()
            self.assertEqual(self.lbd_json("image", "info", silent_first)["size_bytes"], 8 * MIB)
            self.assertLess(time.monotonic() - begin, 10)
        # glusterd is not needed by whoever has the volume's layout.
        self.cluster.hosts[0].stop()
        self.addCleanup(self.cluster.hosts[0].start)
        self.io(server, "write -P 2 64k 64k", "flush", "read -P 1 0 64k")
        self.assertEqual(server.stop(), 0)
        dead = self.run_fail(self.lbd, "image", "info", self.uri("over.img") + "?timeout=20")
        self.assertIn("cannot connect to Gluster volume 'vol'", dead.stderr)

    def test_as_a_base_under_local_changes(self):
        base, top, flat = self.make("base.img", "16M"), self.path("top.qcow2"), self.uri("flat.img")
        filler = self.serve("-f", base)
        self.io(filler, "write -P 1 0 16M", "flush")
        self.assertEqual(filler.stop(), 0)
        before = digest(self.brick("base.img"))
        server = self.serve("-E", top, "-f", base)
        self.io(server, "write -P 2 1M 64k", "write -z 3M 1M", "flush", "read -P 2 1M 64k", "read -P 1 2M 64k")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(digest(self.brick("base.img")), before)
        self.run_ok(self.lbd, "flatten", "-E", top, "-f", base, "-o", flat)
        self.assertIn("File exists", self.run_fail(self.lbd, "flatten", "-E", top, "-f", base, "-o", flat).stderr)
        server = self.serve("-r", "-E", top, "-f", base)
        self.qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", flat, server.uri)
        self.assertEqual(server.stop(), 0)
        self.assertLess(os.stat(self.brick("flat.img")).st_blocks * 512, 16 * MIB, "the hole was filled")

    def serve_table(self, table):
        folder = self.path("run")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return self.serve("--table", table, env=dict(os.environ, LBD_RUNTIME_DIR=folder, LBD_STATE_DIR=folder))

    def test_in_tables(self):
        first, second, store = (self.make(f"member{n}.img", "8M") for n in range(3))
        server = self.serve_table(f"0 8192 linear {first} 8192; 8192 8192 linear {second} 0")
        self.io(server, "write -P 1 0 1M", "write -P 2 4M 1M", "flush")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(content(self.brick("member0.img"), 4 * MIB, MIB), b"\1" * MIB)
        self.assertEqual(content(self.brick("member1.img"), 0, MIB), b"\2" * MIB)
        striped = f"0 32768 striped 2 128 {first} 0 {second} 0"
        server = self.serve_table(striped)
        self.io(server, "write -P 5 0 64k", "write -P 6 64k 64k", "write -P 7 1M 5M", "discard 8M 1M", "flush")
        self.fio(server.uri, "--rw=randwrite", "--bs=4k", "--offset=10m", "--size=4m", "--iodepth=32")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(content(self.brick("member0.img"), 0, 65536), b"\5" * 65536)
        self.assertEqual(content(self.brick("member1.img"), 0, 65536), b"\6" * 65536)
        before = digest(self.brick("member0.img"))
        for turn in (1, 2):  # the second one reads what the first has put into the store
            server = self.serve_table(f"0 16384 snapshot {first} {store} P 16")
            self.io(server, f"write -P {turn} {turn}M 64k", "flush", "read -P 1 1M 64k", "read -P 5 0 64k")
            self.assertEqual(server.stop(), 0)
        self.assertEqual(digest(self.brick("member0.img")), before)
        for name in ("member0.img", "member1.img", "member2.img"):
            self.assert_bricks_equal(name)

    def test_an_image_has_one_writer_or_several_readers(self):
        uri, change = self.make("locked.img", "8M"), self.uri("locked.qcow2")
        server = self.serve("-E", change, "-f", uri)
        reader = self.serve("-r", "-f", uri)
        for layers in (["-f", uri], ["-E", change], ["-r", "-E", change], ["-E", self.path("x.qcow2"), "-E", change]):
            said = self.run_fail(self.lbd, "serve", "-u", self.path("x"), "--socket", self.path("c"), *layers)
            self.assertIn("another program", said.stderr)
        self.assertIn("another program", self.run_fail(self.lbd, "map", "-E", change).stderr)
        self.assertIn("another program", self.run_fail(self.lbd, "image", "resize", "--shrink", uri, "4M").stderr)
        reader.kill()
        server.kill()  # the servers take its locks back
        again = self.serve("-E", change, "-f", uri)
        self.assertEqual(again.stop(), 0)
        self.assertEqual(self.serve("-f", uri).stop(), 0)

    def test_what_cannot_be_opened_says_why(self):
        self.make("there.img", "8M")
        at = self.cluster.address
        for uri, said in ((self.uri("none.img"), "No such file or directory"),
                          (self.uri("none/a.img"), "No such file or directory"),
                          (self.uri("there.img/a.img"), "it is no regular file"),
                          (f"gluster://{at}/none/a.img", f"volume 'none' on {at}:24007"),
                          (f"gluster://{at}:24008/vol/a.img", f"volume 'vol' on {at}:24008"),
                          ("gluster://nohost.invalid/vol/a.img", "volume 'vol' on nohost.invalid:24007"),
                          ("gluster+unix:///vol/a.img?socket=/nowhere", "volume 'vol' on /nowhere"),
                          (f"gluster:/{at}/vol/there.img", f"write gluster://{at}/vol/there.img")):
            begin = time.monotonic()
            done = self.run_fail(self.lbd, "serve", "-u", self.path("x"), "--socket", self.path("c"), "-f", uri)
            self.assertIn(said, done.stderr)
            self.assertLess(time.monotonic() - begin, 15, uri)

    def relay(self, listener, target):
        """Passes connections on, until the test ends."""
        def pump(source, sink):
            try:
                while data := source.recv(65536):
                    sink.sendall(data)
            except OSError:
                pass
            for end in (source, sink):
                try:
                    end.shutdown(socket.SHUT_RDWR)  # the other direction ends, too
                except OSError:
                    pass
            sink.close()

        def accept():
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection(target)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self.addCleanup(listener.close)

    def test_a_server_with_an_ipv6_address(self):
        self.make("six.img", "8M")
        try:
            listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError as why:
            self.skipTest(f"no IPv6 here: {why}")
        self.relay(listener, (self.cluster.address, 24007))
        uri = f"gluster://[::1]:{listener.getsockname()[1]}/vol/six.img"
        self.assertEqual(self.lbd_json("image", "info", uri)["size_bytes"], 8 * MIB)
        server = self.serve("-f", uri)
        self.io(server, "write -P 6 0 64k", "flush", "read -P 6 0 64k")
        self.assertEqual(server.stop(), 0)

    def test_other_names_of_an_image(self):
        self.make("socket.img", "8M")
        over_socket = "gluster+unix:///vol/socket.img?socket=/var/run/glusterd.socket"
        info = self.lbd_json("image", "info", over_socket)
        self.assertEqual(info["size_bytes"], 8 * MIB)
        at_form = self.lbd_json("image", "info", f"vol@{self.cluster.address}:socket.img")
        self.assertEqual(at_form["size_bytes"], 8 * MIB)
        rdma = self.run_ok(self.lbd, "image", "info", f"gluster+rdma://{self.cluster.address}/vol/socket.img")
        self.assertIn("tcp instead", rdma.stderr)


if __name__ == "__main__":
    cluster.enter()
    testing.main()
