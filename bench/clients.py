# SPDX-License-Identifier: MIT
"""The two load clients and what a run of theirs yields."""
import json
import os
import subprocess
import time
from dataclasses import dataclass

CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class ClientFailed(Exception):
    """A client reported errors or ended badly."""


@dataclass(frozen=True)
class Workload:
    """One kind of load. `once`: random offsets `stride` apart, each at most once. `everywhere`: server
    and client run on any CPU."""
    name: str
    block: int
    depth: int
    connections: int = 1
    write: bool = False
    sequential: bool = False
    once: bool = False
    stride: int = 0
    everywhere: bool = False

    @property
    def is_bulk(self):
        return self.block >= 1 << 20


@dataclass
class Result:
    """One measured run; times in microseconds, rates in operations or bytes a second."""
    ops_per_s: float
    bytes_per_s: float
    p50_us: float
    p99_us: float
    server_cpu_us: float
    client_cpu_us: float
    foreign_cpu: float  # CPUs' worth of work that neither server nor client did


class CpuSample:
    """The CPU time of every process at one moment. A living process is known to the nanosecond; what
    its ended children had used comes in clock ticks."""

    def __init__(self):
        self.parents = {}
        self.used_ns = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            pid = int(name)
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
                    fields = f.read().rsplit(")", 1)[1].split()
                used = time.clock_gettime_ns((~pid << 3) | 2)  # the process's CPU clock
            except OSError:
                continue
            self.parents[pid] = int(fields[1])
            self.used_ns[pid] = used + (int(fields[13]) + int(fields[14])) * CLOCK_TICK_NS

    def _is_in_tree(self, pid, roots):
        while pid and pid not in roots:
            pid = self.parents.get(pid, 0)
        return bool(pid)

    def tree_ns(self, root):
        return sum(ns for pid, ns in self.used_ns.items() if self._is_in_tree(pid, {root}))

    def foreign_ns(self, server):
        """Everything that belongs neither to this program and its children nor to the server."""
        own = {os.getpid(), server}
        return sum(ns for pid, ns in self.used_ns.items() if not self._is_in_tree(pid, own))


class Watch:
    """CPU time from here to stop(): of a server, and of everybody else on the machine."""

    def __init__(self, server):
        self.server = server
        self.started_ns = time.monotonic_ns()
        self.before = CpuSample()

    def stop(self):
        """(server's CPU nanoseconds, foreign CPUs in use)"""
        after = CpuSample()
        elapsed = time.monotonic_ns() - self.started_ns
        foreign = after.foreign_ns(self.server) - self.before.foreign_ns(self.server)
        return (after.tree_ns(self.server) - self.before.tree_ns(self.server),
                max(0.0, foreign / elapsed))


def run_checked(command, timeout_s):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        text = (done.stderr or done.stdout).strip()[-500:]
        raise ClientFailed(f"{os.path.basename(command[0])}: {text}")
    return done.stdout


class Nbdload:
    name = "nbdload"

    def __init__(self, program, cpu, spin=False):
        self.program = program
        self.pin = ["--cpu", str(cpu)] if cpu is not None else []
        self.spin = spin

    def fill(self, server, export):
        """In 4 KiB pieces, so that a page cache keeps small folios: see README.md, caveats."""
        run_checked([self.program] + self.pin + server.client_args() + [
            "--export", export, "--fill", "--block", "4096", "--depth", "32"], 120)

    def run(self, server, export, load, seconds):
        pin = [] if load.everywhere else self.pin
        command = [self.program] + pin + server.client_args() + [
            "--export", export, "--block", str(load.block), "--depth", str(load.depth),
            "--connections", str(load.connections), "--server-pid", str(server.pid)]
        command += ["--write"] if load.write else []
        command += ["--sequential"] if load.sequential else []
        command += ["--stride", str(load.stride)] if load.stride else []
        command += ["--spin"] if self.spin else []
        if load.once:
            command += ["--once"]
        else:
            command += ["--seconds", str(seconds), "--warmup", str(min(0.2, seconds / 4))]
        watch = Watch(server.pid)
        out = json.loads(run_checked(command, seconds + 120))
        _, foreign = watch.stop()
        latency = out["latency_us"]
        return Result(out["ops_per_s"], out["mb_per_s"] * 1e6, latency["p50"], latency["p99"],
                      out["server_cpu_us_per_op"], out["client_cpu_us_per_op"], foreign)


class Fio:
    name = "fio"

    def __init__(self, cpu):
        self.prefix = (["taskset", "-c", str(cpu)] if cpu is not None else []) + ["fio"]

    def run(self, server, export, load, seconds):
        uri = server.uri()
        if export:
            uri = uri.replace("nbd+unix:///", f"nbd+unix:///{export}") \
                if uri.startswith("nbd+unix") else f"{uri}/{export}"
        kind = ("" if load.sequential else "rand") + ("write" if load.write else "read")
        command = self.prefix + [
            "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", f"--bs={load.block}",
            f"--iodepth={load.depth}", f"--numjobs={load.connections}", "--thread",
            "--group_reporting", "--randrepeat=1", "--norandommap", "--time_based",
            f"--runtime={int(seconds * 1000)}ms", "--output-format=json"]
        watch = Watch(server.pid)
        text = run_checked(command, seconds + 120)
        server_cpu, foreign = watch.stop()
        job = json.loads(text[text.index("{"):])["jobs"][0]
        side = job["write" if load.write else "read"]
        ops = max(1, side["total_ios"])
        # fio's percentages are of the sum of the jobs' run times.
        client_cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] * 1e6
        latency = side["clat_ns"]["percentile"]
        return Result(side["iops"], side["bw_bytes"], latency["50.000000"] / 1000,
                      latency["99.000000"] / 1000, server_cpu / 1000 / ops,
                      client_cpu / 1000 / ops, foreign)
