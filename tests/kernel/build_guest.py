#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Makes the guest that the kernel tests boot: a stock Debian kernel and a small root file system.

Everything comes out of Debian packages (guest-packages.txt), fetched with `apt-get download` and never
installed; no root is needed. The result is cached in a folder named after all that went into it:

    ${LBD_GUEST_CACHE:-${XDG_CACHE_HOME:-~/.cache}/lbd/guest}/<digest>/{vmlinux,initrd.cpio}

Two things make the guest start fast under emulation: the kernel is unpacked here, once, instead of at
each start, and the root file system is not compressed.
"""

import fcntl
import hashlib
import lzma
import os
import pathlib
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib")
PROGRAM_FOLDERS = ("usr/sbin", "sbin", "usr/bin", "bin")
UNUSED_DAYS = 14  # a guest that nobody booted for so long is thrown away


class Unavailable(Exception):
    """The guest cannot be made on this machine; says why."""


def cache_folder():
    """Where guests and downloaded packages are kept."""
    named = os.environ.get("LBD_GUEST_CACHE")
    if named:
        return pathlib.Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(home) / "lbd" / "guest"


def output_of(*argv, cwd=None):
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False,
                          env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(argv)[:200]}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def read_recipe():
    """The packages with their programs, and the modules, that guest-packages.txt names."""
    packages, modules = {}, []
    for line in (HERE / "guest-packages.txt").read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] == "package":
            packages[words[1]] = words[2:]
        elif words[0] == "module":
            modules.append(words[1])
        else:
            raise ValueError(f"guest-packages.txt: {line}")
    return packages, modules


def depends_of(packages):
    """The packages that these ones depend on, the first of each set of alternatives."""
    found, skip = [], False
    for line in output_of("apt-cache", "depends", "--important", *sorted(packages)).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind in ("Depends", "PreDepends", "|Depends", "|PreDepends") and not skip:
            found.append(name)
        skip = kind.startswith("|")
    return found


def with_libraries(packages):
    """These packages and, however deep, the library packages that they depend on."""
    known, new = set(packages), set(packages)
    while new:
        new = {name for name in depends_of(new) if re.match(r"lib[a-z]", name)} - known
        known |= new
    return known


def kernel_package():
    """The package of Debian's current kernel."""
    for name in depends_of(["linux-image-amd64"]):
        if re.fullmatch(r"linux-image-\d[^ ]*-amd64", name):
            return name
    raise Unavailable("apt knows no linux-image-amd64: run apt-get update")


def archive_names(packages):
    """The file name of each package's current version, and its digest, as apt's lists have them."""
    names = {}
    shown = output_of("apt-cache", "show", "--no-all-versions", *sorted(packages))
    for entry in shown.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.splitlines() if re.match(r"\w[^ ]*: ", line))
        if "Package" in fields:
            names[fields["Package"]] = fields.get("SHA256", fields.get("Version"))
    return names


def download(packages, folder):
    """Fetches the packages into a folder, and unpacks them beside each other into folder/root."""
    root = folder / "root"
    root.mkdir()
    output_of("apt-get", "-q", "download", *sorted(packages), cwd=folder)
    for archive in sorted(folder.glob("*.deb")):
        output_of("dpkg-deb", "-x", str(archive), str(root))
        archive.unlink()
    return root


def unpack_kernel(image, target):
    """Writes the ELF kernel inside a bzImage."""
    data = image.read_bytes()
    start = data.find(b"\xfd7zXZ\x00")
    if start < 0:
        raise Unavailable(f"{image.name} is not compressed with xz")
    kernel = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data[start:])
    if not kernel.startswith(b"\x7fELF"):
        raise Unavailable(f"{image.name} holds no ELF kernel")
    target.write_bytes(kernel)


def find_file(root, folders, name):
    for folder in folders:
        path = root / folder / name
        if path.exists():
            return path
    raise Unavailable(f"no package of the guest has {name}")


def needed_libraries(program):
    """The names of the libraries that an ELF file asks for itself."""
    return re.findall(r"\(NEEDED\).*\[(.+?)\]", output_of("readelf", "-d", str(program)))


def copy_programs(unpacked, root, programs):
    """Copies programs to usr/sbin and all libraries they need, however deep, to lib64."""
    waiting = []
    for name in programs:
        source = find_file(unpacked, PROGRAM_FOLDERS, name)
        shutil.copy2(source, root / "usr/sbin" / name)
        waiting.append(source)
    while waiting:
        for name in needed_libraries(waiting.pop()):
            if not (root / "lib64" / name).exists():
                source = find_file(unpacked, LIBRARY_FOLDERS, name)
                shutil.copy2(source, root / "lib64" / name)
                waiting.append(source)


def copy_modules(unpacked, root, version, wanted):
    """Copies kernel modules with everything they depend on, and writes the guest's modules.dep."""
    source = unpacked / "lib/modules" / version
    target = root / "lib/modules" / version
    loader = [str(find_file(unpacked, LIBRARY_FOLDERS, "ld-linux-x86-64.so.2")), "--argv0", "depmod",
              "--library-path", ":".join(str(unpacked / folder) for folder in LIBRARY_FOLDERS),
              str(find_file(unpacked, PROGRAM_FOLDERS, "kmod"))]
    output_of(*loader, "-b", str(unpacked), version)
    depends = {}
    for line in (source / "modules.dep").read_text(encoding="ascii").splitlines():
        module, _, needs = line.partition(":")
        depends[module] = needs.split()
    chosen = [module for module in depends
              if any(module == path or module.startswith(path + "/") for path in wanted)]
    for path in wanted:
        if not any(module == path or module.startswith(path + "/") for module in depends):
            raise Unavailable(f"the kernel has no module {path}")
    for module in {*chosen, *(need for module in chosen for need in depends[module])}:
        (target / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / module, target / module)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy2(source / name, target / name)
    output_of(*loader, "-b", str(root), version)


def make_root(unpacked, root, version):
    """The guest's root file system as a folder."""
    packages, modules = read_recipe()
    for folder in ("proc", "sys", "dev", "run", "tmp", "mnt", "etc", "root", "share", "usr/sbin", "lib64",
                   "lib/modules", "var"):
        (root / folder).mkdir(parents=True)
    for link, target in (("bin", "usr/sbin"), ("sbin", "usr/sbin"), ("usr/bin", "sbin"),
                         ("lib/x86_64-linux-gnu", "../lib64"), ("usr/lib", "../lib64"),
                         ("usr/lib64", "../lib64"), ("var/run", "../run"), ("etc/mtab", "/proc/mounts")):
        (root / link).symlink_to(target)
    copy_programs(unpacked, root, [name for programs in packages.values() for name in programs])
    shutil.copy2(find_file(unpacked, LIBRARY_FOLDERS, "ld-linux-x86-64.so.2"),
                 root / "lib64/ld-linux-x86-64.so.2")
    shutil.copy2(unpacked / "etc/mke2fs.conf", root / "etc/mke2fs.conf")
    programs = root / "usr/sbin"
    links = {applet: "busybox" for applet in output_of(str(programs / "busybox"), "--list").split()}
    links.update({name: "kmod" for name in ("modprobe", "insmod", "rmmod", "lsmod", "modinfo")})
    links.update({"mkfs.ext4": "mke2fs", "fsck.ext4": "e2fsck"})
    for name, target in links.items():
        if target != "busybox" or not (programs / name).exists():
            (programs / name).unlink(missing_ok=True)
            (programs / name).symlink_to(target)
    for name, text in (("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n"),
                       ("hosts", "127.0.0.1 localhost\n"), ("nsswitch.conf", "hosts: files\n")):
        (root / "etc" / name).write_text(text, encoding="ascii")
    copy_modules(unpacked, root, version, modules)
    shutil.copy2(HERE / "init.sh", root / "init")
    (root / "init").chmod(0o755)


def write_archive(root, target):
    """Writes a folder as a cpio archive of the `newc` kind, everything owned by root, times left out."""
    def entry(out, number, name, mode, data=b""):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
        out.write(b"\0" * (-out.tell() % 4) + data)
        out.write(b"\0" * (-out.tell() % 4))

    with open(target, "wb") as out:
        for number, path in enumerate(sorted(root.rglob("*")), start=1):
            mode = path.lstat().st_mode
            data = b""
            if stat.S_ISLNK(mode):
                data = os.readlink(path).encode()
            elif stat.S_ISREG(mode):
                data = path.read_bytes()
            entry(out, number, str(path.relative_to(root)), mode, data)
        entry(out, 0, "TRAILER!!!", 0)


def build():
    """Returns the folder with vmlinux and initrd.cpio, made now if nobody did before."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"the guest is made for x86_64, this is {platform.machine()}")
    for tool in ("apt-get", "apt-cache", "dpkg-deb", "readelf", "qemu-system-x86_64"):
        if not shutil.which(tool):
            raise Unavailable(f"{tool} is not installed")
    kernel = kernel_package()
    packages = with_libraries(read_recipe()[0]) | {kernel}
    digest = hashlib.sha256(repr(sorted(archive_names(packages).items())).encode())
    for name in ("build_guest.py", "guest-packages.txt", "init.sh"):
        digest.update((HERE / name).read_bytes())
    folder = cache_folder() / digest.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                make_guest(pathlib.Path(scratch), packages, kernel, folder)
        os.utime(folder)
        for other in folder.parent.iterdir():
            if other.is_dir() and other.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
                shutil.rmtree(other)
    return folder


def make_guest(scratch, packages, kernel, folder):
    unpacked = download(packages, scratch)
    version = kernel.removeprefix("linux-image-")
    result, root = scratch / "result", scratch / "guest"
    result.mkdir()
    root.mkdir()
    unpack_kernel(unpacked / "boot" / f"vmlinuz-{version}", result / "vmlinux")
    make_root(unpacked, root, version)
    write_archive(root, result / "initrd.cpio")
    result.rename(folder)


if __name__ == "__main__":
    try:
        print(build())
    except Unavailable as reason:
        print(f"build_guest: {reason}", file=sys.stderr)
        sys.exit(77)
