# SPDX-License-Identifier: MIT
"""Starts the servers that the probe knows, and lists where the foreign ones are known to deviate."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys

import nbd_wire as nbd
import testing
from probe import EXPORT_SIZE

# Stacks of layers for `lbd serve`, topmost first; {n} makes files of each server its own.
LBD_STACKS = {
    "memory": ["--source", "mem:256M"],
    "file": ["-f", "{dir}/flat{n}.img"],
    "overlay": ["-E", "{dir}/top{n}.qcow2", "-f", "{dir}/flat{n}.img"],
    "threads": ["--io", "threads", "-E", "{dir}/top{n}.qcow2", "-f", "{dir}/flat{n}.img"],
    "seccomp": ["-E", "{dir}/top{n}.qcow2", "-f", "{dir}/flat{n}.img"],  # io_uring refused by the kernel
    "chain": ["-s", "256M", "-E", "{dir}/a{n}.qcow2", "-E", "{dir}/b{n}.qcow2", "-E", "{dir}/c{n}.qcow2"],
}

WITHOUT_IO_URING = str(testing.SOURCE_DIR / "tests/threads/without_io_uring.py")


class Server:
    """A server under probe; process and pid are None when the probe did not start it."""

    def __init__(self, address, name, process=None, read_only=None, read_only_address=None, pid=None):
        self.address, self.name, self.process, self.read_only = address, name, process, read_only
        self.read_only_address = read_only_address or (read_only and read_only.address)
        self.pid = process.pid if process else pid
        with nbd.Client(address) as client:
            client.greet()
            if client.go(name) != nbd.REP_ACK:
                raise RuntimeError(f"no export {name!r} at {address}")
            self.size = client.size

    def running(self):
        return self.process is None or self.process.running()

    def stop(self):
        for server in (self.read_only, self):
            if server and server.process and server.process.running():
                server.process.kill()


class Daemon:
    """A process that is not our child: what Server needs of testing.Process."""

    def __init__(self, pid):
        self.pid = pid

    def running(self):
        try:
            os.kill(self.pid, 0)
            return True
        except ProcessLookupError:
            return False

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout_s=20):
        """Ends with the process; its exit status cannot be known and counts as 0."""
        try:
            testing.wait_until(lambda: not self.running(), "the daemon has ended", timeout_s)
        except AssertionError:
            raise subprocess.TimeoutExpired("daemon", timeout_s) from None
        return 0


class Starter:
    """Starts servers of one kind in a scratch folder; every call gives a fresh one with a read-only sibling."""

    def __init__(self, kind, directory, stack="memory"):
        self.kind, self.dir, self.stack, self.count = kind, directory, stack, itertools.count()

    def __call__(self):
        return self._start(read_only=self._start(None, ["-r"]))

    def _start(self, read_only, extra=()):
        n = next(self.count)
        path = f"{self.dir}/s{n}"
        name, argv = getattr(self, "_" + self.kind.replace("-", "_"))(n, path, list(extra))
        process = testing.Process(argv, f"{self.dir}/log{n}")
        if self.kind == "nbd-server":  # always goes into the background
            process.wait()
            testing.wait_until(lambda: testing.accepts(path), f"{path} accepts")
            process = Daemon(int(pathlib.Path(f"{self.dir}/pid{n}").read_text(encoding="ascii")))
        else:
            process.wait_ready(lambda: testing.accepts(path))
        return Server(path, name, process, read_only)

    def _flat(self, n):
        flat = f"{self.dir}/flat{n}.img"
        with open(flat, "wb") as file:
            file.truncate(EXPORT_SIZE)
        return flat

    def _lbd(self, n, path, extra):
        self._flat(n)
        stack = LBD_STACKS["file" if extra else self.stack]  # a read-only server makes no change files
        layers = [word.format(dir=self.dir, n=n) for word in stack]
        for below in range(len(layers) - 2, 1, -2):  # only the topmost change file is made by serving
            if layers[below] == "-E":
                self._make_change_file(layers[below + 1], layers[below + 2:])
        refuse = [sys.executable, "-B", WITHOUT_IO_URING] if self.stack == "seccomp" else []
        return "", [*refuse, testing.lbd_binary(), "serve", "-u", path, "--socket", path + ".ctl", *extra, *layers]

    def _make_change_file(self, path, lower_layers):
        """Serves it on top of what lies below for a moment, which makes it."""
        process = testing.Process([testing.lbd_binary(), "serve", "-u", path + ".sock", "--socket", path + ".ctl",
                                   "-s", str(EXPORT_SIZE), "-E", path, *lower_layers], path + ".log")
        process.wait_ready(lambda: testing.accepts(path + ".sock"))
        process.stop()

    def _nbdkit(self, n, path, extra):
        return "", ["nbdkit", "-f", "-U", path, *extra, "memory", str(EXPORT_SIZE)]

    def _qemu_nbd(self, n, path, extra):
        return "", ["qemu-nbd", "-t", "-k", path, "-e", "400", "-f", "raw", *extra, self._flat(n)]

    def _nbd_server(self, n, path, extra):
        config = f"{self.dir}/nbd-server{n}.conf"
        options = "readonly = true" if extra else "flush = true\nfua = true\ntrim = true"
        pathlib.Path(config).write_text(
            f"[generic]\nunixsock = {path}\nlistenaddr = 127.0.0.1\nport = {testing.free_port()}\nallowlist = true\n"
            f"[export1]\nexportname = {self._flat(n)}\n{options}\n", encoding="ascii")
        return "export1", ["nbd-server", "-C", config, "-p", f"{self.dir}/pid{n}"]


def external(uri, read_only_uri, pid):
    """A starter for a server that somebody else runs."""
    address, name = nbd.parse_uri(uri)
    read_only = nbd.parse_uri(read_only_uri)[0] if read_only_uri else None
    return lambda: Server(address, name, None, None, read_only, pid)


# Rules that a foreign server is known to break (versions of Debian 12); "*": only sometimes.
ANY_NAME = "serves every name"
DEVIATIONS = {
    "nbdkit": {
        "03_export_name_of_unknown_export_disconnects": ANY_NAME,
        "08_unknown_name_is_unknown_in_step": ANY_NAME,
        "08_name_that_is_not_utf8_is_refused_in_step": ANY_NAME,
        "10_name_description_block_size_are_told_when_asked": "optional",
        "13_duplicate_query_gives_one_context": "the same id three times",
        "13_meta_context_with_trailing_bytes_is_invalid_in_step": "does not look",
        "13_meta_context_of_unknown_export_is_unknown": ANY_NAME,
        "13_failed_set_drops_the_earlier_contexts": "keeps them",
        "15_dripping_handshake_times_out": "no time limit",
        "15_idle_handshake_times_out": "no time limit",
        "20_flood_of_reads_is_bounded_in_memory*": "a buffer for each thread",
        "20_flood_of_small_requests_is_bounded_in_memory*": "crashes when a client vanishes",
        "20_stalled_payloads_are_bounded_in_memory": "takes the memory before the payload comes",
        "22_length_0_does_not_disconnect": "a write of length 0 is ENOSPC",
        "30_disc_finishes_outstanding_requests*": "answers ESHUTDOWN",
        "31_vanishing_clients_hurt_nobody*": "crashes when a client vanishes",
        "31_gone_connections_leave_nothing_behind*": "crashes when a client vanishes",
        "32_half_a_request_leaves_no_trace*": "crashes when a client vanishes",
        "34_writes_of_a_dead_connection_never_land_late*": "crashes when a client vanishes",
        "36_shutdown_answers_what_it_received*": "waits for the clients to leave",
        "36_shutdown_does_not_wait_for_a_stalled_client": "waits for the clients to leave",
        "36_shutdown_ends_well_under_load": "waits for the clients to leave",
    },
    "qemu-nbd": {
        "10_name_description_block_size_are_told_when_asked": "no description given",
        "13_meta_context_with_trailing_bytes_is_invalid_in_step": "does not look",
        "16_bad_request_magic_disconnects": "answers EINVAL",
        "16_extended_magic_without_negotiation_disconnects": "answers EINVAL",
        "17_beyond_the_end_is_enospc_or_einval_and_drained": "always EINVAL",
        "17_beyond_the_end_with_structured_replies": "always EINVAL",
        "18_offset_plus_length_may_wrap": "always EINVAL",
        "19_writes_to_read_only_are_eperm_and_drained": "always EINVAL",
        "20_requests_to_64_mib_are_served": "32 MiB at most",
        "30_disc_finishes_outstanding_requests*": "drops replies",
        "34_writes_of_a_dead_connection_never_land_late*": "not fenced",
        "36_shutdown_answers_what_it_received*": "drops requests",
        "36_shutdown_does_not_wait_for_a_stalled_client": "waits for the clients to leave",
        "36_shutdown_ends_well_under_load*": "waits for the clients to leave",
    },
    "nbd-server": {
        "01_unknown_client_flag_disconnects": "accepts it",
        "02_without_fixed_newstyle_only_export_name": "answers LIST",
        "04_option_of_4_gib_does_not_wait_for_it": "waits to read it",
        "05_list_with_data_is_invalid_in_step": "sends the list as well",
        "06_abort_is_acknowledged_then_closed": "never acknowledges",
        "07_malformed_info_and_go_are_invalid_in_step": "hangs or gets out of step",
        "08_name_of_4097_bytes_is_refused_in_step": "gets out of step",
        "08_name_with_nul_is_refused_in_step": "accepts it",
        "09_info_and_go_give_the_same": "INFO says size 0",
        "10_name_description_block_size_are_told_when_asked": "optional",
        "11_structured_reply_with_data_is_invalid_and_not_negotiated": "no structured replies",
        "13_set_meta_context_before_structured_reply_is_invalid": "no contexts",
        "15_dripping_handshake_times_out": "no time limit",
        "15_idle_handshake_times_out": "no time limit",
        "15_idle_handshakes_do_not_block_others*": "slow to fork",
        "23_unknown_and_misplaced_flags_are_einval_and_drained": "ignores them",
        "36_shutdown_ends_well_under_load*": "a process for each client goes on",
        "36_shutdown_answers_what_it_received*": "a process for each client goes on",
        "36_shutdown_does_not_wait_for_a_stalled_client*": "a process for each client goes on",
    },
}
