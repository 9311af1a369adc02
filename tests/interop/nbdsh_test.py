# SPDX-License-Identifier: MIT
"""Judge: nbdsh (libnbd's shell) with its own checks off, so that illegal requests reach the server."""

import os

import interop
import testing

ILLEGAL = """
import errno
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri({uri!r})
size = h.get_size()

def error(call, *args, **named):
    try:
        call(*args, **named)
        return "ok"
    except nbd.Error as e:
        return errno.errorcode[e.errnum] if e.errnum else e.string

def want(expected, call, *args, **named):
    got = error(call, *args, **named)
    assert got == expected, f"{{call.__name__}} {{args[-1]}} {{named}}: {{got}}, not {{expected}}"

seen = []
status = lambda context, offset, extents, err: seen.append(extents)
want("ENOSPC", h.pwrite, bytes(1024), size - 512)
want("ENOSPC", h.zero, 1024, size - 512)
want("EINVAL", h.pread, 1024, size - 512)
want("EINVAL", h.trim, 1024, size - 512)
want("EINVAL", h.cache, 1024, size - 512)
want("EINVAL", h.block_status, 1024, size - 512, status)
want("EINVAL", h.pread, 512, 2**64 - 512)
want("EINVAL", h.pread, 512, 0, flags=nbd.CMD_FLAG_NO_HOLE)
want("EINVAL", h.pwrite, bytes(512), 0, flags=nbd.CMD_FLAG_REQ_ONE)
want("EINVAL", h.flush, flags=nbd.CMD_FLAG_DF)
want("EINVAL", h.pread, 512, 0, flags=1 << 13)
want("ok", h.pread, 512, 0, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_DF)
want("ok", h.flush, flags=nbd.CMD_FLAG_FUA)
want("ok", h.pwrite, b"x" * 512, 512, flags=nbd.CMD_FLAG_FUA)
want("ok", h.zero, 512, 512, flags=nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
want("ok", h.block_status, 4096, 0, status, flags=nbd.CMD_FLAG_REQ_ONE)
assert len(seen[-1]) == 2, seen
assert h.pread(512, 512) == bytes(512)
h.shutdown()
"""

READ_ONLY = """
import errno
h.set_strict_mode(0)
h.connect_uri({uri!r})
assert h.is_read_only()
for call, args in ((h.pwrite, (bytes(512), 0)), (h.zero, (512, 0)), (h.trim, (512, 0))):
    try:
        call(*args)
        raise SystemExit(f"{{call.__name__}} on a read-only export succeeded")
    except nbd.Error as e:
        assert e.errnum == errno.EPERM, e.string
assert h.pread(512, 0)
"""

OPTIONS = """
h.set_opt_mode(True)
h.connect_uri({uri!r})
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["disk"], names
contexts = []
h.opt_list_meta_context(contexts.append)
assert "base:allocation" in contexts, contexts
h.set_export_name("nothing")
try:
    h.opt_info()
    raise SystemExit("an unknown export has info")
except nbd.Error:
    pass
h.set_export_name("disk")
h.opt_info()
size = h.get_size()
h.opt_go()
assert h.get_size() == size
h.shutdown()
"""


class Nbdsh(interop.Case):
    def nbdsh(self, code, uri):
        testing.require("nbdsh")
        env = dict(os.environ, PATH="/usr/bin:" + os.environ["PATH"])
        self.run_ok("nbdsh", "-c", code.format(uri=uri), env=env)

    def test_illegal_requests_get_the_right_errors(self):
        for layers in (["--source", "mem:1M"], ["-s", "1M", "-E", self.path("top.qcow2")]):
            self.nbdsh(ILLEGAL, self.serve(*layers).uri)

    def test_read_only_refuses_with_eperm(self):
        self.nbdsh(READ_ONLY, self.serve("-r", "-f", self.data_file("flat.img", interop.MIB)).uri)

    def test_options_before_transmission(self):
        self.nbdsh(OPTIONS, self.serve("--source", "mem:1M", name="disk").uri)


if __name__ == "__main__":
    interop.main()
