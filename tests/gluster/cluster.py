# SPDX-License-Identifier: MIT
"""Real Gluster servers for tests, in namespaces of their own, which vanish with the test whatever happens.

A test file begins with cluster.enter(): it runs again as the first process of fresh process, network and mount
namespaces, so that no server, mount, address or state file survives it or touches those of the machine.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import testing

INSIDE = "LBD_GLUSTER_NAMESPACE"
NEEDED = ("glusterd", "glusterfsd", "gluster", "unshare", "nsenter", "ip", "mount")


def enter():
    """Returns inside fresh namespaces; ends the process as skipped where there are none or no Gluster."""
    if os.environ.get(INSIDE) == "1":
        _reap()
        _settle()
        return
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [tool for tool in NEEDED if not shutil.which(tool, path=path)]
    if missing:
        print("skipped: not installed: " + ", ".join(missing))
        sys.exit(testing.SKIPPED)
    unshare = ["unshare", "--mount", "--net", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        print("skipped: no namespaces here (that takes root)")
        sys.exit(testing.SKIPPED)
    os.environ[INSIDE] = "1"
    os.environ["PATH"] = path
    os.execvp("unshare", [*unshare, sys.executable, "-B", *sys.argv])


def _reap():
    """The first process of the namespace inherits every orphan, and glusterd takes a dead brick that nobody
    waited for to be alive. So the test is a child of one that waits for all."""
    test = os.fork()
    if test == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == test:
            os._exit(os.waitstatus_to_exitcode(status) & 0xff)


def _run(*argv, timeout_s=60):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=timeout_s,
                          stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _settle():
    """What servers write goes to memory that only this namespace sees."""
    _run("mount", "--make-rprivate", "/")
    groups = pathlib.Path("/var/lib/glusterd/groups")  # comes with the package
    known = {path.name: path.read_bytes() for path in groups.glob("*")}
    for folder in ("/run", "/var/lib/glusterd", "/var/log/glusterfs"):
        os.makedirs(folder, exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", folder)
    os.makedirs("/run/gluster", exist_ok=True)
    groups.mkdir()
    for name, options in known.items():
        (groups / name).write_bytes(options)
    _run("ip", "link", "set", "lo", "up")


class Host:
    """One server: a glusterd of its own, in a network namespace of its own unless it is the only one."""

    def __init__(self, cluster, number, address, namespace=None):
        self.cluster, self.number, self.address, self.namespace = cluster, number, address, namespace
        self.bricks = pathlib.Path(f"{cluster.folder}/host{number}")
        self.bricks.mkdir(parents=True)
        self.state = pathlib.Path(f"/run/host{number}") if namespace else None
        self.daemon = None

    def _inside(self, *argv):
        if not self.namespace:
            return list(argv)
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *argv]

    def start(self):
        if self.daemon:
            self.daemon.kill()
        command = ["glusterd", "--no-daemon", "--log-level=WARNING"]
        if self.namespace:
            self.state.mkdir(exist_ok=True)
            for name in ("lib", "log", "run"):
                (self.state / name).mkdir(exist_ok=True)
            if not (self.state / "lib/groups").exists():
                shutil.copytree("/var/lib/glusterd/groups", self.state / "lib/groups")
            volfile = self.state / "glusterd.vol"
            volfile.write_text(f"""volume management
  type mgmt/glusterd
  option working-directory {self.state}/lib
  option transport-type socket
  option transport.address-family inet
  option transport.socket.keepalive-time 10
  option transport.socket.keepalive-interval 2
  option ping-timeout 0
  option event-threads 1
  option run-directory {self.state}/run
  option glusterd-sockfile {self.socket}
end-volume
""")
            mounts = (f"mount --bind {self.state}/lib /var/lib/glusterd && "
                      f"mount --bind {self.state}/log /var/log/glusterfs && "
                      f"mount --bind {self.state}/run /run/gluster && ")
            command = self._inside("unshare", "--mount", "sh", "-c", mounts + "exec " + " ".join(
                [*command, "--volfile=" + str(volfile), f"--pid-file={self.state}/glusterd.pid"]))
        self.daemon = testing.Process(command, self.cluster.folder / f"glusterd{self.number}.log")
        self.daemon.wait_ready(self.answers, 30)

    @property
    def socket(self):
        return f"{self.state}/glusterd.socket" if self.namespace else "/var/run/glusterd.socket"

    def answers(self):
        return subprocess.run(self._gluster("pool", "list"), capture_output=True, check=False,
                              stdin=subprocess.DEVNULL).returncode == 0

    def _gluster(self, *words):
        sock = ["--glusterd-sock=" + self.socket] if self.namespace else []
        return self._inside("gluster", "--mode=script", *sock, *words)

    def gluster(self, *words):
        return _run(*self._gluster(*words), timeout_s=130)

    def stop(self):
        """Kills glusterd; the bricks go on."""
        self.daemon.kill()


class Cluster:
    """Servers, for all tests of a file. close() stops them; so does the end of the test's process."""

    def __init__(self, hosts=1):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lbd-gluster-"))
        self.hosts = []
        began = time.monotonic()
        if hosts == 1:
            self._one_host()
        else:
            self._several_hosts(hosts)
        for host in self.hosts:
            host.start()
        for host in self.hosts[1:]:
            self.hosts[0].gluster("peer", "probe", host.address)
        if hosts > 1:
            testing.wait_until(self._all_connected, "the peers are connected", 30)
        self.start_took_s = time.monotonic() - began

    def _one_host(self):
        # glusterd refuses 127.0.0.1.
        _run("ip", "link", "add", "g0", "type", "veth", "peer", "name", "g1")
        _run("ip", "addr", "add", "10.77.1.1/24", "dev", "g0")
        _run("ip", "link", "set", "g0", "up")
        _run("ip", "link", "set", "g1", "up")
        self.hosts.append(Host(self, 1, "10.77.1.1"))

    def _several_hosts(self, count):
        _run("ip", "link", "add", "br0", "type", "bridge")
        _run("ip", "addr", "add", "10.77.2.254/24", "dev", "br0")
        _run("ip", "link", "set", "br0", "up")
        for n in range(1, count + 1):
            space = f"h{n}"
            _run("ip", "netns", "add", space)
            _run("ip", "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", space)
            _run("ip", "link", "set", f"v{n}", "master", "br0", "up")
            for words in (("addr", "add", f"10.77.2.{n}/24", "dev", "eth0"), ("link", "set", "eth0", "up"),
                          ("link", "set", "lo", "up")):
                _run("ip", "-n", space, *words)
            self.hosts.append(Host(self, n, f"10.77.2.{n}", space))

    def _all_connected(self):
        return self.hosts[0].gluster("pool", "list").count("Connected") == len(self.hosts)

    @property
    def address(self):
        return self.hosts[0].address

    def gluster(self, *words):
        return self.hosts[0].gluster(*words)

    def make_volume(self, name="vol", replicas=3, **options):
        """A started volume, spread over the hosts; `options` with '_' for '.' and '-' as given in a dict."""
        bricks = []
        for i in range(replicas):
            host = self.hosts[i % len(self.hosts)]
            bricks.append(f"{host.address}:{host.bricks}/{name}-{i}")
        self.gluster("volume", "create", name, "replica", str(replicas), *bricks, "force")
        settings = {"network.ping-timeout": "4", "cluster.heal-timeout": "5", "performance.client-io-threads": "off",
                    **options}
        words = [word for key, value in settings.items() for word in (key, value)]
        self.gluster("volume", "set", name, *words)
        self.gluster("volume", "start", name)
        testing.wait_until(lambda: len(self.brick_pids(name)) == replicas, "the bricks run", 30)

    def brick_paths(self, name="vol"):
        """The bricks' folders, in the volume's order."""
        found = re.findall(r"^Brick\d+: [^:]+:(\S+)", self.gluster("volume", "info", name), re.MULTILINE)
        return [pathlib.Path(path) for path in found]

    def brick_pids(self, name="vol"):
        """Of the bricks that run: folder to process id."""
        out = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if not words[0].endswith(b"glusterfsd") or b"--brick-name" not in words:
                continue
            brick = words[words.index(b"--brick-name") + 1].decode()
            if pathlib.Path(brick).name.startswith(name + "-"):
                out[pathlib.Path(brick)] = int(folder.name)
        return out

    def kill_bricks(self, count, name="vol"):
        """Kills the first `count` bricks as a crash would."""
        for path in self.brick_paths(name)[:count]:
            os.kill(self.brick_pids(name)[path], signal.SIGKILL)

    def restore_bricks(self, name="vol"):
        """Starts the bricks that do not run."""
        wanted = len(self.brick_paths(name))
        self.gluster("volume", "start", name, "force")
        testing.wait_until(lambda: len(self.brick_pids(name)) == wanted, "the bricks run again", 30)

    def pending_heals(self, name="vol"):
        """How many entries wait for healing, as the bricks' own lists say."""
        waiting = 0
        for path in self.brick_paths(name):
            listed = (path / ".glusterfs/indices/xattrop").glob("*")
            waiting += sum(not p.name.startswith("xattrop-") for p in listed)
        return waiting

    def wait_healed(self, name="vol", timeout_s=60):
        testing.wait_until(lambda: self.pending_heals(name) == 0, "everything is healed", timeout_s)

    def uri(self, path, name="vol", host=0):
        return f"gluster://{self.hosts[host].address}/{name}/{path}"

    def close(self):
        """Kills every server of the namespace; addresses and the like vanish with it."""
        for host in self.hosts:
            host.daemon.kill()
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                name = pathlib.Path(os.readlink(folder / "exe")).name
            except OSError:
                continue
            if name.startswith("gluster"):
                try:
                    os.kill(int(folder.name), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        shutil.rmtree(self.folder, ignore_errors=True)
