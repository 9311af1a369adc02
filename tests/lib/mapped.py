# SPDX-License-Identifier: MIT
"""testing.Case with disks for `lbd run`, in runtime and state folders of its own."""

import os
import pathlib

import testing


def generator(static=False):
    """The program `gen`, which fills devices with a pattern; `static` for machines without libraries."""
    path = pathlib.Path(testing.lbd_binary()).parent / ("lbd_gen_static" if static else "lbd_gen")
    if not path.exists():
        raise testing.unittest.SkipTest(f"{path} is not built")
    return path


class Case(testing.Case):
    """self.disks: files of the folder self.path("dev"), vda, vdb and so on."""

    def setUp(self):
        super().setUp()
        testing.require("dmsetup")
        for folder in ("bin", "dev", "run", "state"):
            (self.dir / folder).mkdir(mode=0o700)
        os.symlink(generator(), self.dir / "bin/gen")
        os.symlink(testing.lbd_binary(), self.dir / "bin/lbd")
        self.env = {**os.environ, "PATH": f"{self.path('bin')}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C",
                    "DM_DISABLE_UDEV": "1", "LBD_RUNTIME_DIR": self.path("run"),
                    "XDG_STATE_HOME": self.path("state"), "HOME": self.path("state")}
        for name in ("LBD_SOCKET", "LD_PRELOAD"):
            self.env.pop(name, None)
        self.disks = []

    def make_disk(self, content):
        """A further disk with these bytes, or of so many zeros; returns its path."""
        path = self.path(f"dev/vd{chr(ord('a') + len(self.disks))}")
        with open(path, "wb") as file:
            if isinstance(content, int):
                file.truncate(content)
            else:
                file.write(content)
        self.disks.append(path)
        return path

    def remove_disks(self):
        for path in self.disks:
            os.remove(path)
        self.disks = []

    def under_lbd(self, *command, log_level="warn", cwd=None):
        """Runs a program under `lbd run` with the disks; returns the completed process."""
        words = [word for disk in self.disks for word in ("--disk", disk)]
        argv = [testing.lbd_binary(), "run", "--log-level", log_level, *words, "--", *command]
        if cwd:
            argv = ["env", "-C", cwd, *argv]
        return self.run_any(*argv, env=self.env, timeout_s=110)

    def sh(self, script):
        """A shell script under `lbd run`, in the folder of the disks, that must succeed; what it printed."""
        done = self.under_lbd("bash", "-euo", "pipefail", "-c", script, cwd=self.path("dev"))
        self.assertEqual(done.returncode, 0, f"{script}\n{done.stdout}{done.stderr}")
        return done.stdout

    def require_mount(self):
        """Skips the test where devices cannot be files (no FUSE)."""
        probe = "dmsetup create probe --table '0 8 zero' && head -c 512 /dev/mapper/probe >/dev/null"
        if self.under_lbd("sh", "-c", probe).returncode != 0:
            self.skipTest("devices cannot be mounted here")
