# SPDX-License-Identifier: MIT
"""The servers that are compared: how each is started, reached and ended."""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 10
PR_SET_PDEATHSIG = 1
KEY = bytes(range(64)).hex()  # of the encrypted devices: AES-256-XTS
LIBC = ctypes.CDLL(None, use_errno=True)


class ServerFailed(Exception):
    """A server did not start; the message says which and what it printed."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_luks(path, size_bytes, secret):
    options = "key-secret=key,cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,iter-time=10"
    command = ["qemu-img", "create", "-q"] + secret + ["-f", "luks", "-o", options, path, str(size_bytes)]
    # It times its key derivation, and gives up when the kernel counted no time in user mode.
    for _ in range(10):
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode == 0:
            return
    raise ServerFailed(made.stderr.strip())


def die_with_parent():
    """Runs in the child: a server never outlives the benchmark, not even a killed one."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """One running server process (tree). `command` is a list; where it listens is in `address`:
    {"unix": PATH} or {"tcp": PORT}."""

    def __init__(self, name, command, address, work_dir, cpu=None, pid_file=None):
        self.name = name
        self.address = address
        self.pid_file = pid_file
        self.log_path = os.path.join(work_dir, f"{name}.log")
        self.pid = None
        if cpu is not None:
            command = ["taskset", "-c", str(cpu)] + command
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _connects(self):
        try:
            if "unix" in self.address:
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(5)
                    s.connect(self.address["unix"])
                    return s.recv(8) == b"NBDMAGIC"
            with socket.create_connection(("127.0.0.1", self.address["tcp"]), 5) as s:
                return s.recv(8) == b"NBDMAGIC"
        except OSError:
            return False

    def _wait_until_ready(self):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            ended = self.process.poll() is not None
            if ended and not self.pid_file:
                break
            if self._connects():
                self.pid = self._daemon_pid() if self.pid_file else self.process.pid
                return
            time.sleep(0.02)
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            raise ServerFailed(f"{self.name} did not start: {log.read().strip()[-500:]}")

    def _daemon_pid(self):
        with open(self.pid_file, encoding="ascii") as f:
            return int(f.read())

    def client_args(self):
        if "unix" in self.address:
            return ["--unix", self.address["unix"]]
        return ["--tcp", f"127.0.0.1:{self.address['tcp']}"]

    def uri(self):
        if "unix" in self.address:
            return f"nbd+unix:///?socket={self.address['unix']}"
        return f"nbd://127.0.0.1:{self.address['tcp']}"

    def stop(self):
        if self.pid_file and self.pid is not None:
            self._stop_daemon()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if "unix" in self.address and os.path.exists(self.address["unix"]):
            os.unlink(self.address["unix"])

    def _stop_daemon(self):
        for sig in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT_S
            try:
                os.kill(self.pid, sig)
                while time.monotonic() < deadline:
                    os.kill(self.pid, 0)
                    time.sleep(0.02)
            except ProcessLookupError:
                return


class Launcher:
    """Starts servers by name. Knows the command lines and which programs are there."""

    def __init__(self, lbd, work_dir, cpu):
        self.lbd = lbd
        self.work_dir = work_dir
        self.cpu = cpu
        self.notes = []
        self.qemu_aio = self._probe_qemu_aio()

    def has(self, name):
        if name == "lbd":
            return self.lbd is not None
        program = {"nbdkit-memory": "nbdkit", "nbdkit-file": "nbdkit", "nbdkit-cow": "nbdkit",
                   "qemu-storage-daemon": "qemu-storage-daemon"}.get(name, name)
        return shutil.which(program) is not None

    def _probe_qemu_aio(self):
        if not shutil.which("qemu-nbd"):
            self.notes.append("qemu-nbd is not installed (package qemu-utils)")
            return None
        help_text = subprocess.run(["qemu-nbd", "--help"], capture_output=True, text=True).stdout
        image = os.path.join(self.work_dir, "probe.raw")
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        if "io_uring" in help_text:
            try:
                self._start("qemu-nbd", "unix", self._qemu_nbd(image, "raw", "io_uring")).stop()
                return "io_uring"
            except ServerFailed:
                pass
        self.notes.append("qemu-nbd cannot use io_uring here: it runs with --aio=threads")
        return "threads"

    def _start(self, name, transport, make_command, everywhere=False):
        """`make_command(address)` gives the command line and the pid file, if it has one."""
        if transport == "unix":
            address = {"unix": os.path.join(self.work_dir, f"{name}.sock")}
        else:
            address = {"tcp": free_port()}
        command, pid_file = make_command(address)
        cpu = None if everywhere else self.cpu
        return Server(name, command, address, self.work_dir, cpu, pid_file)

    def memory(self, name, transport, size_bytes):
        def lbd(address):
            return self._lbd_listen(address) + ["--source", f"mem:{size_bytes >> 20}M"], None

        def nbdkit(address):
            return self._nbdkit_listen(address) + ["memory", f"{size_bytes >> 20}M"], None

        return self._start(name, transport, {"lbd": lbd, "nbdkit-memory": nbdkit}[name])

    def file(self, name, transport, path):
        def lbd(address):
            return self._lbd_listen(address) + ["-f", path], None

        def nbdkit(address):
            return self._nbdkit_listen(address) + ["file", path], None

        commands = {"lbd": lbd, "nbdkit-file": nbdkit, "nbd-server": self._nbd_server(path),
                    "qemu-nbd": self._qemu_nbd(path, "raw", self.qemu_aio)}
        return self._start(name, transport, commands[name])

    def crypt(self, name, transport, path, size_bytes):
        """AES-256-XTS with sectors of 512 bytes in a file that is made."""
        def lbd(address):
            with open(path, "wb") as f:
                f.truncate(size_bytes)
            table = f"0 {size_bytes // 512} crypt aes-xts-plain64 {KEY} 0 {path} 0"
            return self._lbd_listen(address) + ["--table", table], None

        def qemu_nbd(address):
            secret = ["--object", "secret,id=key,data=benchmark"]
            make_luks(path, size_bytes, secret)
            image = f"driver=luks,key-secret=key,file.driver=file,file.filename={path}," \
                    f"file.aio={self.qemu_aio}"
            return ["qemu-nbd", "-t", "-e", "0", "--cache=writeback"] + self._qemu_listen(address) \
                + secret + ["--image-opts", image], None

        return self._start(name, transport, {"lbd": lbd, "qemu-nbd": qemu_nbd}[name])

    def snapshot(self, transport, origin, store, size_bytes, chunk_bytes):
        """LBD's: an empty persistent snapshot."""
        table = f"0 {size_bytes // 512} snapshot {origin} {store} P {chunk_bytes // 512}"
        return self._start("lbd", transport,
                           lambda address: (self._lbd_listen(address) + ["--table", table], None))

    def overlay(self, name, transport, chain, everywhere=False):
        """`chain`: the image files, topmost first, the raw base last. `everywhere`: on any CPU."""
        def lbd(address):
            layers = [arg for image in chain[:-1] for arg in ("-E", image)]
            return self._lbd_listen(address) + layers + ["-f", chain[-1]], None

        def nbdkit_cow(address):
            return self._nbdkit_listen(address) + ["--filter=cow", "file", chain[-1]], None

        commands = {"lbd": lbd, "nbdkit-cow": nbdkit_cow,
                    "qemu-nbd": self._qemu_nbd(chain[0], "qcow2", self.qemu_aio),
                    "qemu-storage-daemon": self._storage_daemon(chain)}
        return self._start(name, transport, commands[name], everywhere)

    def _lbd_listen(self, address):
        control = os.path.join(self.work_dir, "lbd-control.sock")
        where = ["-u", address["unix"]] if "unix" in address else ["-l", str(address["tcp"])]
        return [self.lbd, "serve", "--socket", control] + where

    @staticmethod
    def _nbdkit_listen(address):
        if "unix" in address:
            return ["nbdkit", "-f", "-U", address["unix"]]
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(address["tcp"])]

    @staticmethod
    def _qemu_nbd(path, image_format, aio):
        def command(address):
            return ["qemu-nbd", "-t", "-e", "0", "-f", image_format, "--cache=writeback",
                    f"--aio={aio}"] + Launcher._qemu_listen(address) + [path], None

        return command

    @staticmethod
    def _qemu_listen(address):
        if "unix" in address:
            return ["-k", address["unix"]]
        return ["-b", "127.0.0.1", "-p", str(address["tcp"])]

    def _nbd_server(self, path):
        def command(address):
            config = os.path.join(self.work_dir, "nbd-server.conf")
            pid_file = os.path.join(self.work_dir, "nbd-server.pid")
            if os.path.exists(pid_file):
                os.unlink(pid_file)
            if "unix" in address:
                where = f"unixsock = {address['unix']}\nlistenaddr = 127.0.0.1\n" \
                        f"port = {free_port()}\n"
            else:
                where = f"listenaddr = 127.0.0.1\nport = {address['tcp']}\n"
            with open(config, "w", encoding="ascii") as f:
                f.write(f"[generic]\n{where}[bench]\nexportname = {path}\nflush = true\n")
            return ["nbd-server", "-C", config, "-p", pid_file], pid_file

        return command

    def _storage_daemon(self, chain):
        def command(address):
            nodes = []
            for level, image in reversed(list(enumerate(chain))):
                nodes += ["--blockdev", f"driver=file,node-name=f{level},filename={image},"
                          f"aio={self.qemu_aio}"]
                if level < len(chain) - 1:
                    nodes += ["--blockdev", f"driver=qcow2,node-name=q{level},file=f{level},"
                              f"backing={'q' if level < len(chain) - 2 else 'f'}{level + 1}"]
            if "unix" in address:
                where = f"addr.type=unix,addr.path={address['unix']}"
            else:
                where = f"addr.type=inet,addr.host=127.0.0.1,addr.port={address['tcp']}"
            return ["qemu-storage-daemon"] + nodes + [
                "--nbd-server", where + ",max-connections=0", "--export",
                "type=nbd,id=e,node-name=q0,name=bench,writable=on"], None

        return command


def export_name(server_name):
    """nbd-server and qemu-storage-daemon want a name; the others take the empty one."""
    return "bench" if server_name in ("nbd-server", "qemu-storage-daemon") else ""
