#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Boots a stock Debian kernel under emulation and runs a shell script in it; about four seconds in all.

From a test: `guest.run(script)`. By hand: `tests/kernel/guest.py [options] SCRIPT`.
In the guest the host's loopback is 10.0.2.2.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import build_guest

HOST = "10.0.2.2"  # the host's 127.0.0.1, seen from the guest

# Emulation rather than KVM: it behaves alike on every machine. nokaslr to no_timer_check, and la57=off,
# are about the time it takes to start; panic=-1 with -no-reboot turns a kernel's crash into an end.
KERNEL_ARGUMENTS = (
    "console=ttyS0,115200 quiet loglevel=4 oops=panic panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
    "lpj=4000000 audit=0 random.trust_cpu=on cryptomgr.notests rdinit=/init selinux=0 apparmor=0 "
    "nowatchdog rcupdate.rcu_expedited=1")
MACHINE = ("-M", "pc,usb=off,vmport=off,hpet=off", "-accel", "tcg,thread=multi,tb-size=256",
           "-cpu", "max,la57=off,rdrand=on", "-nodefaults", "-no-user-config", "-display", "none",
           "-no-reboot")


class Result:
    """How a script ended: `status` (None: the guest died or took too long), `output`, `console`."""

    def __init__(self, status, output, console):
        self.status = status
        self.output = output
        self.console = console


def command(boot, scratch, cpus, memory_mb, disks, share):
    """The command line of the machine; its files are in the folder `scratch`."""
    arguments = f"{KERNEL_ARGUMENTS} guest.net=1 guest.disks={len(disks)} guest.share={int(bool(share))}"
    argv = ["qemu-system-x86_64", *MACHINE, "-smp", str(cpus), "-m", str(memory_mb),
            "-kernel", f"{boot}/vmlinux", "-initrd", f"{boot}/initrd.cpio", "-append", arguments,
            "-serial", f"file:{scratch}/console", "-device", "virtio-serial-pci,disable-legacy=on",
            "-netdev", "user,id=net,ipv6=off",
            "-device", "virtio-net-pci,netdev=net,romfile=,disable-legacy=on"]
    for port in ("out", "status"):
        argv += ["-chardev", f"file,id={port},path={scratch}/{port}",
                 "-device", f"virtserialport,chardev={port},name={port}"]
    for name in ("script", "env"):
        argv += ["-fw_cfg", f"name=opt/run/{name},file={scratch}/{name}"]
    for number, disk in enumerate(disks):
        argv += ["-drive", f"if=none,id=disk{number},file={disk},format=raw,cache=unsafe,discard=unmap",
                 "-device", f"virtio-blk-pci,drive=disk{number},disable-legacy=on"]
    if share:
        argv += ["-virtfs", f"local,path={share},mount_tag=share,security_model=none,multidevs=remap"]
    return argv


def run(script, *, env=None, disks=(), share=None, cpus=1, memory_mb=512, timeout_s=120):
    """Runs a bash script in a fresh guest and returns its Result.

    env: variables for the script. disks: raw images, /dev/vda and on. share: a folder of the host that
    the guest sees as /share, writable. Raises build_guest.Unavailable where there can be no guest.
    """
    boot = build_guest.build()
    with tempfile.TemporaryDirectory(prefix="lbd-guest-") as folder:
        scratch = pathlib.Path(folder)
        (scratch / "script").write_text(script, encoding="utf-8")
        # The firmware interface does not pass empty files.
        settings = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in (env or {}).items())
        (scratch / "env").write_text(settings or "\n", encoding="utf-8")
        for name in ("out", "status", "console"):
            (scratch / name).touch()
        try:
            machine = subprocess.run(command(boot, scratch, cpus, memory_mb, disks, share),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, timeout=timeout_s, check=False)
            end = f"qemu ended with status {machine.returncode}: {machine.stdout.decode().strip()}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {timeout_s} s"
        status = (scratch / "status").read_text(encoding="ascii").strip()
        output = (scratch / "out").read_text(errors="replace")
        console = (scratch / "console").read_text(errors="replace") + end
    return Result(int(status) if status else None, output, console)


def main():
    """The command line: exits with the script's status, 125 when the guest died, 77 without a guest."""
    parser = argparse.ArgumentParser(description="Run a shell script in a guest with a stock kernel.")
    parser.add_argument("-d", "--disk", action="append", default=[], help="raw image: /dev/vda and on")
    parser.add_argument("-s", "--share", help="folder of the host, /share in the guest")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-m", "--memory-mb", type=int, default=512)
    parser.add_argument("-c", "--cpus", type=int, default=1)
    parser.add_argument("-t", "--timeout-s", type=int, default=600)
    parser.add_argument("script", help="file with the script, - for standard input")
    args = parser.parse_args()
    script = sys.stdin.read() if args.script == "-" else pathlib.Path(args.script).read_text("utf-8")
    try:
        result = run(script, env=dict(pair.split("=", 1) for pair in args.env), disks=args.disk,
                     share=args.share and os.path.abspath(args.share), cpus=args.cpus,
                     memory_mb=args.memory_mb, timeout_s=args.timeout_s)
    except build_guest.Unavailable as reason:
        print(f"guest: {reason}", file=sys.stderr)
        sys.exit(77)
    sys.stdout.write(result.output)
    if result.status is None:
        print(f"guest: it gave no exit status; its console:\n{result.console}", file=sys.stderr)
        sys.exit(125)
    sys.exit(result.status)


if __name__ == "__main__":
    main()
