# SPDX-License-Identifier: MIT
"""Management of a running server: JSON-RPC with the lbd commands over it, and the text protocol."""

import json
import os
import socket
import stat

import interop
import testing
from interop import MIB
from load import Load


class Lines:
    """A connection on which requests and answers are lines."""

    def __init__(self, address):
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(20)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout=20)
        self.stream = self.sock.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()
        self.sock.close()

    def send(self, line):
        self.sock.sendall(line if isinstance(line, bytes) else line.encode() + b"\n")

    def line(self):
        """The next line without its end; None when the other side has closed."""
        try:
            line = self.stream.readline()
        except ConnectionError:
            return None
        return line.decode(errors="replace").rstrip("\r\n") if line else None

    def ask(self, line):
        self.send(line)
        return self.line()


class Managed(interop.Case):
    def serve_with_admin(self, *layers):
        """A server with the text protocol; .admin is its address."""
        port = testing.free_port()
        server = self.serve(f"-a{port}", *layers)
        server.admin = ("127.0.0.1", port)
        testing.wait_until(lambda: testing.accepts(server.admin), "the text protocol answers")
        return server

    def add_layers_under_load(self, add):
        """Adds five layers while four clients read and write; checks the data, the files, and QEMU's view of them."""
        testing.require("qemu-img", "nbdcopy")
        base = self.data_file("base.img", 16 * MIB)
        tops = [self.path(f"top{i}.qcow2") for i in range(6)]
        server = self.serve_with_admin("-E", tops[0], "-f", base)
        work = Load(server.uri, 500, base=interop.read_file(base))
        digests = {}
        for i, top in enumerate(tops[1:], start=1):
            for _ in range(15):
                work.step()
            add(server, top)
            digests[tops[i - 1]] = interop.digest(tops[i - 1])
        for _ in range(30):
            work.step()
        expected = work.finish()
        self.assertEqual(work.problems, [])
        self.assertTrue(self.device_bytes(server.uri) == expected, "the device's content is wrong")
        self.assertEqual(server.stop(), 0)
        for path, digest in digests.items():
            self.assertEqual(interop.digest(path), digest, f"{path} was written after it became read-only")
        for top in tops:
            self.assert_clean(top)
        self.run_ok("qemu-img", "convert", "-f", "qcow2", "-O", "raw", tops[-1], self.path("by-qemu.raw"))
        self.assertTrue(interop.read_file(self.path("by-qemu.raw")) == expected,
                        "QEMU reads other bytes from the chain")
        layers = [word for top in reversed(tops) for word in ("-E", top)]
        server = self.serve(*layers, "-f", base)
        self.assertTrue(self.device_bytes(server.uri) == expected, "wrong after a restart with all layers named")
        self.assertEqual(server.stop(), 0)


class Commands(Managed):
    def test_ping(self):
        server = self.serve("--source", "mem:1M")
        self.lbd("ping", "--socket", server.control)
        self.run_ok(testing.lbd_binary(), "ping", env=dict(os.environ, LBD_SOCKET=server.control))

    def test_ping_nobody_is_one_line(self):
        self.lbd_fails("ping", "--socket", self.path("nobody"), names=[self.path("nobody")])

    def test_a_server_of_another_kind_is_told_as_such(self):
        server = self.serve("--source", "mem:1M")
        self.lbd_fails("device", "ls", "--socket", server.control, names=[server.control, "lbd daemon"])

    def test_info_tells_layers_clients_and_counters(self):
        base, top = self.data_file("base.img", 4 * MIB), self.path("top.qcow2")
        server = self.serve("-E", top, "-f", base, name="disk")
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "read 2M 1M", "-c", "flush", server.uri)
        text = self.lbd("info", "--socket", server.control)
        for word in (base, top, "disk"):
            self.assertIn(word, text)
        told = json.loads(self.lbd("info", "--json", "--socket", server.control))
        for word in (base, top, "disk", str(4 * MIB)):
            self.assertIn(word, json.dumps(told))
        for layer in told["devices"][0]["layers"]:
            path = layer["path"]
            self.assertGreater(layer["allocated_bytes"], 0, path)
            self.assertLessEqual(layer["allocated_bytes"], 5 * MIB, path)

    def test_info_tells_addresses_in_full(self):
        process = self.start(["sh", "-c", f"cd {self.dir} && exec {testing.lbd_binary()} serve -u s --socket c "
                              "--source mem:1M"], ready=lambda: testing.accepts(self.path("s")))
        told = json.loads(self.lbd("info", "--json", "--socket", self.path("c")))
        self.assertEqual(told["addresses"], [self.path("s")])
        self.assertEqual(process.stop(), 0)

    def test_shutdown(self):
        top = self.path("top.qcow2")
        server = self.serve("-s", "4M", "-E", top)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", server.uri)
        self.lbd("shutdown", "--socket", server.control)
        self.assertEqual(server.wait(), 0)
        self.assert_clean(top)
        self.run_ok("qemu-io", "-r", "-c", "read -P 1 0 1M", top)

    def test_add_layer_under_load(self):
        self.add_layers_under_load(lambda server, top: self.lbd("add-layer", top, "--socket", server.control))

    def test_add_layer_with_a_relative_name(self):
        server = self.serve("-s", "4M", "-E", self.path("top.qcow2"))
        done = self.run_any("sh", "-c",
                            f"cd {self.dir} && {testing.lbd_binary()} add-layer next.qcow2 --socket {server.control}")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.exists(self.path("next.qcow2")), "the name was not taken from the command's folder")

    def test_add_layer_refusals_leave_the_device_working(self):
        top = self.path("top.qcow2")
        server = self.serve("-s", "4M", "-E", top)
        with open(self.path("text"), "wb") as file:
            file.write(b"not an image" * 100)
        for path in (top, self.path("no/such/folder/x.qcow2"), self.path("text")):
            self.lbd_fails("add-layer", path, "--socket", server.control, names=[path])
        self.lbd_fails("add-layer", self.path("new.qcow2"), "--device", "nonesuch", "--socket",
                       server.control, names=["nonesuch"])
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "read -P 1 0 1M", server.uri)
        self.assertEqual(interop.read_file(self.path("text")), b"not an image" * 100)

    def test_add_layer_to_a_read_only_device_is_refused(self):
        server = self.serve("-r", "-f", self.data_file("base.img", MIB))
        self.lbd_fails("add-layer", self.path("top.qcow2"), "--socket", server.control)

    def test_the_only_server_is_found_and_several_are_listed(self):
        runtime = self.path("run")
        env = {key: value for key, value in os.environ.items() if key != "LBD_SOCKET"}
        env["LBD_RUNTIME_DIR"] = runtime
        self.lbd_fails("ping", env=env)
        first = self.start([testing.lbd_binary(), "serve", "-u", self.path("s1"), "--source", "mem:1M"], env=env,
                           ready=lambda: testing.accepts(self.path("s1")))
        self.assertEqual(stat.S_IMODE(os.stat(runtime).st_mode), 0o700)
        self.assertTrue(testing.accepts(f"{runtime}/serve-{first.pid}.sock"))
        self.lbd("ping", env=env)
        second = self.start([testing.lbd_binary(), "serve", "-u", self.path("s2"), "--source", "mem:1M"], env=env,
                            ready=lambda: testing.accepts(self.path("s2")))
        done = self.run_fail(testing.lbd_binary(), "ping", env=env)
        for process in (first, second):
            self.assertIn(f"serve-{process.pid}.sock", done.stderr)
        second.kill()
        testing.wait_until(lambda: self.run_any(testing.lbd_binary(), "ping", env=env).returncode == 0,
                           "a socket left behind does not count")

    def test_nobody_else_may_connect(self):
        server = self.serve("--source", "mem:1M")
        self.assertEqual(stat.S_IMODE(os.stat(server.control).st_mode) & 0o077, 0)


class JsonRpc(Managed):
    def call(self, client, method, request_id=1, **params):
        client.send(json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}))
        answer = json.loads(client.line())
        self.assertEqual((answer["jsonrpc"], answer["id"]), ("2.0", request_id))
        return answer

    def test_requests_follow_each_other_on_one_connection(self):
        server = self.serve("-s", "4M", "-E", self.path("top.qcow2"))
        with Lines(server.control) as client:
            for request_id in (1, 2, "three"):
                self.assertIn("result", self.call(client, "ping", request_id))
            self.assertIn(self.path("top.qcow2"), json.dumps(self.call(client, "info")["result"]))

    def test_errors_have_the_codes_of_the_specification(self):
        server = self.serve("--source", "mem:1M")
        with Lines(server.control) as client:
            self.assertEqual(self.call(client, "nonesuch")["error"]["code"], -32601)
            for line, code in (("{", -32700), ("nonsense", -32700), ("[]", -32600), ("{}", -32600), ("5", -32600),
                               ('{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
                               ('{"jsonrpc":"2.0","id":1,"method":5}', -32600)):
                self.assertEqual(json.loads(client.ask(line))["error"]["code"], code, line)
            self.assertIn("result", self.call(client, "ping"))

    def test_a_file_name_with_a_zero_byte_is_refused(self):
        server = self.serve("-s", "1M", "-E", self.path("top.qcow2"))
        with Lines(server.control) as client:
            answer = self.call(client, "add_layer", file=self.path("short\0.qcow2"))
        self.assertIn("zero byte", answer["error"]["message"])
        self.assertFalse(os.path.exists(self.path("short")))

    def test_a_flood_is_bounded_and_others_are_served(self):
        server = self.serve("--source", "mem:1M")
        with Lines(server.control) as client:
            try:
                for _ in range(64):
                    client.send(b"x" * MIB)  # one line without end
            except OSError:
                pass
            self.lbd("ping", "--socket", server.control)
        with Lines(server.control) as deaf:
            deaf.sock.settimeout(0.5)
            try:
                for _ in range(100000):  # never reads an answer
                    deaf.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "info", "params": {}}))
            except OSError:
                pass
            self.lbd("ping", "--socket", server.control)
        with open(f"/proc/{server.pid}/status", encoding="ascii") as status:
            resident = next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
        self.assertLess(resident, 100 * 1024, "KiB resident after a flood")


class TextProtocol(Managed):
    def test_ping(self):
        server = self.serve_with_admin("--source", "mem:1M")
        with Lines(server.admin) as client:
            for line in (b"PING\n", b"PING\r\n", b"PING\n"):
                self.assertEqual(client.ask(line), "true")
            client.send(b"PING\nPING\nPI")
            self.assertEqual((client.line(), client.line()), ("true", "true"))
            client.send(b"NG\n")
            self.assertEqual(client.line(), "true")

    def test_unknown_requests_get_an_error_and_the_end(self):
        server = self.serve_with_admin("--source", "mem:1M")
        for line in (b"HELLO\n", b"\n", b"ping\n", b"\xff\xfe\n", b"GET / HTTP/1.0\n", b"LIVE_ADD_LAYER\n",
                     b"x" * 100000 + b"\n"):
            with Lines(server.admin) as client:
                answer = client.ask(line)
                self.assertTrue(answer is not None and answer.startswith("ERROR"), f"{line[:20]}: {answer!r}")
                self.assertIsNone(client.line(), f"{line[:20]}: the connection stays open")
        with Lines(server.admin) as client:
            self.assertEqual(client.ask("PING"), "true")

    def device_info(self, client):
        client.send("DEVICE_INFO_STRINGS")
        lines = []
        while line := client.line():
            lines.append(line)
        return lines

    def test_device_info_strings(self):
        testing.require("qemu-io")
        base, top = self.data_file("base.img", 4 * MIB), self.path("top.qcow2")
        server = self.serve_with_admin("-E", top, "-f", base)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write 0 1M", "-c", "read 2M 64k", "-c", "flush", server.uri)
        with Lines(server.admin) as client:
            lines = self.device_info(client)
            self.assertTrue(all(": " in line for line in lines), lines)
            text = "\n".join(lines)
            for word in (top, base, str(4 * MIB)):
                self.assertIn(word, text)
            values = dict(line.split(": ", 1) for line in lines if ": " in line)
            for key in ("write", "read", "layer0_write", "layer1_read"):
                histogram = [int(n) for n in values[f"{key}_latency_log2_ns"].split()]
                self.assertEqual(sum(histogram), int(values[f"{key}_requests"]), key)
                self.assertGreater(int(values[f"{key}_latency_p99_ns"]), 0, key)
            self.assertEqual(client.ask("PING"), "true")

    def test_live_add_layer_under_load(self):
        def add(server, top):
            with Lines(server.admin) as client:
                self.assertEqual(client.ask(f"LIVE_ADD_LAYER {top}"), "true")

        self.add_layers_under_load(add)

    def test_live_add_layer_with_blanks_in_the_name(self):
        server = self.serve_with_admin("-s", "1M", "-E", self.path("top.qcow2"))
        name = self.path("next layer ü.qcow2")
        with Lines(server.admin) as client:
            self.assertEqual(client.ask(f"LIVE_ADD_LAYER {name}"), "true")
            self.assertIn(name, "\n".join(self.device_info(client)))

    def test_live_add_layer_errors_are_one_line(self):
        server = self.serve_with_admin("-s", "1M", "-E", self.path("top.qcow2"))
        for name in (self.path("no/folder/x.qcow2"), self.path("top.qcow2")):
            with Lines(server.admin) as client:
                self.assertTrue(client.ask(f"LIVE_ADD_LAYER {name}").startswith("ERROR"))
        self.run_ok("qemu-io", "-f", "raw", "-c", "write 0 64k", server.uri)

    def test_shutdown_flushes_and_ends(self):
        testing.require("qemu-io", "qemu-img")
        top = self.path("top.qcow2")
        server = self.serve_with_admin("-s", "4M", "-E", top)
        self.run_ok("qemu-io", "-f", "raw", "-c", "write -P 9 0 1M", server.uri)
        with Lines(server.admin) as client:
            client.send("SHUTDOWN")
            self.assertEqual(server.wait(), 0)
        self.assert_clean(top)
        self.run_ok("qemu-io", "-r", "-c", "read -P 9 0 1M", top)

    def test_a_silent_client_blocks_nobody(self):
        server = self.serve_with_admin("--source", "mem:1M")
        idle = [Lines(server.admin) for _ in range(20)]
        idle[0].send(b"PIN")
        with Lines(server.admin) as client:
            self.assertEqual(client.ask("PING"), "true")
        server.signal(15)
        self.assertEqual(server.wait(), 0)
        for client in idle:
            client.sock.close()


if __name__ == "__main__":
    interop.main()
