# SPDX-License-Identifier: MIT
"""A small NBD client on raw sockets that can also say what no honest client would.

Nothing is checked for the caller's convenience except what every reply must satisfy (magics, sizes, order
of chunks); names and numbers are those of the NBD protocol document.
"""

import fcntl
import socket
import struct
import termios
import time
import urllib.parse

NBDMAGIC, IHAVEOPT, REP_MAGIC = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
REQUEST_MAGIC, SIMPLE_MAGIC, STRUCTURED_MAGIC = 0x25609513, 0x67446698, 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71

FIXED_NEWSTYLE, NO_ZEROES = 1, 2  # handshake flags, both directions

(OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY,
 OPT_LIST_META_CONTEXT, OPT_SET_META_CONTEXT, OPT_EXTENDED_HEADERS) = range(1, 12)

REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
ERR = 1 << 31
(ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN, ERR_SHUTDOWN,
 ERR_BLOCK_SIZE_REQD, ERR_TOO_BIG) = (ERR + n for n in range(1, 10))
REP_NAMES = {1: "ACK", 2: "SERVER", 3: "INFO", 4: "META_CONTEXT", **{ERR + n + 1: f"ERR_{name}" for n, name in
             enumerate("UNSUP POLICY INVALID PLATFORM TLS_REQD UNKNOWN SHUTDOWN BLOCK_SIZE_REQD TOO_BIG".split())}}

INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

# Transmission flags.
(HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_WRITE_ZEROES, SEND_DF, CAN_MULTI_CONN,
 SEND_RESIZE, SEND_CACHE, SEND_FAST_ZERO) = (1 << n for n in range(12))

CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = range(8)
CMD_NAMES = "READ WRITE DISC FLUSH TRIM CACHE WRITE_ZEROES BLOCK_STATUS".split()
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16  # command flags

CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS = 0, 1, 2, 5
CHUNK_ERROR, CHUNK_ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERROR_NAMES = {0: "ok", 1: "EPERM", 5: "EIO", 12: "ENOMEM", 22: "EINVAL", 28: "ENOSPC", 75: "EOVERFLOW",
               95: "ENOTSUP", 108: "ESHUTDOWN"}

HOLE, ZERO = 1, 2  # base:allocation


class Closed(Exception):
    """The server closed the connection."""


class Broken(Exception):
    """The server sent something that no client can understand."""


def parse_uri(uri):
    """(address, export name) of an nbd:// or nbd+unix:// URI; the address is a path or a (host, port) pair."""
    parts = urllib.parse.urlsplit(uri)
    name = urllib.parse.unquote(parts.path[1:])
    if parts.scheme == "nbd+unix":
        return urllib.parse.parse_qs(parts.query)["socket"][0], name
    return (parts.hostname or "localhost", parts.port or 10809), name


def go_data(name, infos=()):
    """The data of OPT_GO and OPT_INFO."""
    name = name.encode() if isinstance(name, str) else name
    return struct.pack(f">I{len(name)}sH{len(infos)}H", len(name), name, len(infos), *infos)


def meta_data(name, queries=()):
    """The data of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT."""
    name = name.encode()
    data = struct.pack(f">I{len(name)}sI", len(name), name, len(queries))
    return data + b"".join(struct.pack(">I", len(q)) + q.encode() for q in queries)


def request(cmd, offset=0, length=0, flags=0, cookie=1, data=b"", magic=REQUEST_MAGIC):
    """The bytes of one request with its payload."""
    mask = (1 << 64) - 1
    return struct.pack(">IHHQQI", magic, flags, cmd, cookie & mask, offset & mask, length) + bytes(data)


class Reply:
    """One complete reply: simple, or all chunks of a structured one."""

    def __init__(self, cookie, structured):
        self.cookie, self.structured = cookie, structured
        self.error, self.message = 0, ""
        self.content = []  # (offset, data) of a data chunk, (offset, length) of a hole
        self.status = {}   # context id -> [(length, flags)]

    def data(self, offset, length):
        """The bytes read; fails unless the chunks tile the request exactly."""
        result, covered = bytearray(length), []
        for start, what in self.content:
            size = what if isinstance(what, int) else len(what)
            if size == 0 or start < offset or start + size > offset + length:
                raise Broken(f"chunk {start}+{size} outside of request {offset}+{length} or empty")
            covered.append((start, start + size))
            if not isinstance(what, int):
                result[start - offset:start - offset + size] = what
        covered.sort()
        edges = [offset] + [edge for piece in covered for edge in piece] + [offset + length]
        if any(edges[i] != edges[i + 1] for i in range(0, len(edges), 2)):
            raise Broken(f"chunks {covered} overlap or leave gaps in {offset}+{length}")
        return bytes(result)


class Client:
    """One connection. The methods follow the order of a session: greet, option..., go, request..."""

    def __init__(self, address, timeout_s=10):
        self.name, self.size, self.flags, self.contexts, self.infos = "", 0, 0, {}, {}
        self.structured = False
        self.reads = {}    # cookie -> lengths of its outstanding requests (None: no read)
        self.partial = {}  # cookie -> structured reply whose last chunk has not come yet
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if not isinstance(address, str) and ":" in address[0]:
            family = socket.AF_INET6
        self.sock = socket.socket(family)
        self.sock.settimeout(timeout_s)
        self._connect(address, timeout_s)

    def _connect(self, address, patience_s):
        """A Unix socket whose queue is full refuses at once: tries again for a while."""
        limit = time.monotonic() + patience_s
        while True:
            try:
                return self.sock.connect(address)
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def wait_read(self, patience_s=10):
        """Waits until the server has read all that was sent (what it has not read counts at a Unix socket only)."""
        limit = time.monotonic() + patience_s
        while struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0] and time.monotonic() < limit:
            time.sleep(0.01)

    def reset(self):
        """Closes as a killed client on TCP does: with RST, not FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (ConnectionError, BrokenPipeError):
            raise Closed("while sending") from None

    def recv(self, count):
        buffer = bytearray(count)
        view, got = memoryview(buffer), 0
        while got < count:
            try:
                n = self.sock.recv_into(view[got:])
            except ConnectionError:
                n = 0
            if n == 0:
                raise Closed(f"after {got} of {count} bytes")
            got += n
        return bytes(buffer)

    def closed_within(self, seconds):
        """True when the server closes in time; what it still says is thrown away."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(1 << 16):
                pass
        except socket.timeout:
            return False
        except ConnectionError:
            pass
        return True

    # Handshake

    def greet(self, flags=FIXED_NEWSTYLE | NO_ZEROES):
        """Reads the greeting, answers the client flags; returns the server's handshake flags."""
        magic, option_magic, server_flags = struct.unpack(">QQH", self.recv(18))
        if (magic, option_magic) != (NBDMAGIC, IHAVEOPT):
            raise Broken(f"greeting {magic:#x} {option_magic:#x}")
        if flags is not None:
            self.send(struct.pack(">I", flags))
        return server_flags

    def send_option(self, option, data=b"", length=None):
        self.send(struct.pack(">QII", IHAVEOPT, option, len(data) if length is None else length) + data)

    def option_reply(self, option):
        """(reply type, data) of the next reply, which must be one to `option`."""
        magic, replied, kind, length = struct.unpack(">QIII", self.recv(20))
        if magic != REP_MAGIC:
            raise Broken(f"option reply magic {magic:#x}")
        if replied != option:
            raise Broken(f"reply to option {replied}, sent was {option}: out of step")
        if length > 1 << 20:
            raise Broken(f"option reply of {length} bytes")
        return kind, self.recv(length)

    def option(self, option, data=b""):
        """Sends an option; returns all replies up to the final one (ACK or an error)."""
        self.send_option(option, data)
        replies = [self.option_reply(option)]
        while replies[-1][0] not in (REP_ACK,) and not replies[-1][0] & ERR:
            replies.append(self.option_reply(option))
        return replies

    def structured_reply(self):
        self.structured = self.option(OPT_STRUCTURED_REPLY)[-1][0] == REP_ACK
        return self.structured

    def set_meta_context(self, name, queries):
        """Selects contexts; returns {context name: id}, empty when refused."""
        replies = self.option(OPT_SET_META_CONTEXT, meta_data(name, queries))
        self.contexts = {}
        if replies[-1][0] == REP_ACK:
            self.contexts = {data[4:].decode(): struct.unpack(">I", data[:4])[0] for _, data in replies[:-1]}
        return self.contexts

    def go(self, name, infos=(), option=OPT_GO):
        """OPT_GO (or OPT_INFO): fills size, flags, infos {type: payload}; returns the final reply's type."""
        replies = self.option(option, go_data(name, infos))
        self.infos = {struct.unpack(">H", data[:2])[0]: data[2:] for kind, data in replies if kind == REP_INFO}
        if INFO_EXPORT in self.infos:
            self.size, self.flags = struct.unpack(">QH", self.infos[INFO_EXPORT])
        self.name = name
        return replies[-1][0]

    def export_name(self, name, zeroes=False):
        """OPT_EXPORT_NAME; `zeroes`: the client did not promise NO_ZEROES, so 124 of them follow."""
        self.send_option(OPT_EXPORT_NAME, name.encode() if isinstance(name, str) else name)
        self.size, self.flags = struct.unpack(">QH", self.recv(10))
        if zeroes and self.recv(124) != bytes(124):
            raise Broken("the 124 bytes after the export's flags are not zero")

    # Transmission

    def request(self, cmd, offset=0, length=0, flags=0, cookie=1, data=b"", magic=REQUEST_MAGIC):
        """Sends one request without waiting for the reply."""
        self.expect(cookie, length if cmd == CMD_READ else None)
        self.send(request(cmd, offset, length, flags, cookie, data, magic))

    def expect(self, cookie, read_length):
        """Says that a reply to a request sent by other means will come (None: not a read)."""
        self.reads.setdefault(cookie & ((1 << 64) - 1), []).append(read_length)

    def reply(self):
        """The next reply that is complete; chunks of different structured replies may come interleaved."""
        while True:
            magic = struct.unpack(">I", self.recv(4))[0]
            if magic == SIMPLE_MAGIC:
                return self._simple_reply()
            if magic != STRUCTURED_MAGIC:
                raise Broken(f"reply magic {magic:#x}")
            if not self.structured:
                raise Broken("structured reply without negotiation")
            flags, kind, cookie, length = struct.unpack(">HHQI", self.recv(16))
            if not self.reads.get(cookie):
                raise Broken(f"chunk for cookie {cookie:#x}, which has no request outstanding")
            result = self.partial.setdefault(cookie, Reply(cookie, True))
            self._chunk(result, kind, flags, length)
            if flags & 1:
                self._answered(cookie)
                return self.partial.pop(cookie)

    def _simple_reply(self):
        error, cookie = struct.unpack(">IQ", self.recv(12))
        length = self._answered(cookie)
        if self.structured and length is not None:
            raise Broken("simple reply to a read although structured replies were negotiated")
        result = Reply(cookie, False)
        result.error = error
        if length and not error:
            result.content = [(None, self.recv(length))]
        return result

    def _answered(self, cookie):
        if not self.reads.get(cookie):
            raise Broken(f"reply to cookie {cookie:#x}, which has no request outstanding")
        return self.reads[cookie].pop(0)

    def _chunk(self, reply, kind, flags, length):
        if length > 1 << 27:
            raise Broken(f"chunk of {length} bytes")
        payload = self.recv(length)
        if flags & ~1:
            raise Broken(f"unknown chunk flags {flags:#x}")
        if kind == CHUNK_NONE:
            if length or not flags & 1:
                raise Broken("NONE chunk with payload or without DONE")
        elif kind == CHUNK_DATA:
            reply.content.append((struct.unpack(">Q", payload[:8])[0], payload[8:]))
        elif kind == CHUNK_HOLE:
            reply.content.append(struct.unpack(">QI", payload))
        elif kind == CHUNK_STATUS:
            context, pairs = struct.unpack(">I", payload[:4])[0], struct.iter_unpack(">II", payload[4:])
            if context in reply.status:
                raise Broken("two status chunks for one context")
            reply.status[context] = list(pairs)
        elif kind in (CHUNK_ERROR, CHUNK_ERROR_OFFSET):
            error, text = struct.unpack(">IH", payload[:6])
            if not error or text > 4096 or length != 6 + text + (8 if kind == CHUNK_ERROR_OFFSET else 0):
                raise Broken(f"error chunk: error {error}, text {text}, length {length}")
            reply.error, reply.message = reply.error or error, payload[6:6 + text].decode()
        else:
            raise Broken(f"chunk type {kind:#x}")

    def call(self, cmd, offset=0, length=0, flags=0, data=b"", cookie=1):
        """One request and its reply."""
        self.request(cmd, offset, length, flags, cookie, data)
        result = self.reply()
        if result.cookie != cookie & ((1 << 64) - 1):
            raise Broken(f"reply to cookie {result.cookie:#x}, sent was {cookie:#x}")
        return result

    def error(self, cmd, offset=0, length=0, flags=0, data=b""):
        """The error of one request, by name ("ok" for none)."""
        error = self.call(cmd, offset, length, flags, data).error
        return ERROR_NAMES.get(error, str(error))

    def read(self, offset, length, flags=0):
        reply = self.call(CMD_READ, offset, length, flags)
        if reply.error:
            raise Broken(f"read {offset}+{length}: {ERROR_NAMES.get(reply.error, reply.error)}")
        if not reply.structured:
            return reply.content[0][1] if reply.content else b""
        return reply.data(offset, length)

    def write(self, offset, data, flags=0):
        error = self.error(CMD_WRITE, offset, len(data), flags, data)
        if error != "ok":
            raise Broken(f"write {offset}+{len(data)}: {error}")

    def disconnect(self):
        self.send(request(CMD_DISC))
        return self.closed_within(5)
