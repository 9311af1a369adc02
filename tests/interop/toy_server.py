# SPDX-License-Identifier: MIT
"""An NBD server of a few lines whose behaviour a test can bend: hold replies, close, refuse, lie.

It serves bytes in memory to any number of connections, each with a thread of its own. A test bends it by
overriding the methods of Toy that are marked as hooks.
"""

import os
import socket
import struct
import threading

MAGIC, OPTION = 0x4E42444D41474943, 0x49484156454F5054
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FLAGS = 1 | 4 | 8 | 32 | 64 | 256  # HAS_FLAGS FLUSH FUA TRIM WRITE_ZEROES CAN_MULTI_CONN


class Hangup(Exception):
    """Raised by a hook: close this connection now."""


class Toy:
    def __init__(self, path, size=1 << 20, flags=FLAGS):
        self.path, self.flags, self.data = path, flags, bytearray(size)
        self.requests, self.connections, self.stopped = [], 0, False
        self.sockets, self.lock = [], threading.Lock()
        self.listen()

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    # Hooks

    def before(self, number, cmd, offset, length):
        """Called for every request (numbered from 0 over all connections) before it takes effect."""

    def error(self, cmd, offset, length):
        """The error to answer with (0: none)."""
        return 0

    def option(self, option):
        """False: refuse this option as unsupported."""
        return option != 8

    # Machinery

    def listen(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def drop_all(self, and_listener=False):
        """What a crash looks like to the clients; with the listener closed nobody can come back before listen()."""
        if and_listener:
            os.unlink(self.path)
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        with self.lock:
            sockets, self.sockets = self.sockets, []
        for s in sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self.lock:
                self.sockets.append(connection)
                self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, s):
        stream = s.makefile("rb")
        send_lock = threading.Lock()
        try:
            if self._handshake(s, stream):
                while self._request(s, stream, send_lock):
                    pass
        except (Hangup, OSError, struct.error):
            pass
        finally:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def _handshake(self, s, stream):
        s.sendall(struct.pack(">QQH", MAGIC, OPTION, 3))
        stream.read(4)
        while True:
            _, option, length = struct.unpack(">QII", stream.read(16))
            data = stream.read(length)
            if option == 1:
                s.sendall(struct.pack(">QH", len(self.data), self.flags))
                return True
            supported = self.option(option) and option in (6, 7)
            if supported:
                info = struct.pack(">HQH", 0, len(self.data), self.flags)
                s.sendall(struct.pack(">QIII", 0x3E889045565A9, option, 3, len(info)) + info)
            code = 1 if supported or option == 2 else 0x80000001
            s.sendall(struct.pack(">QIII", 0x3E889045565A9, option, code, 0))
            if option == 2:
                return False
            if option == 7 and supported:
                return True
            del data

    def _request(self, s, stream, send_lock):
        _, flags, cmd, cookie, offset, length = struct.unpack(">IHHQQI", stream.read(28))
        payload = stream.read(length) if cmd == WRITE else b""
        if cmd == DISC or len(payload) < (length if cmd == WRITE else 0):
            return False
        with self.lock:
            number = len(self.requests)
            self.requests.append((cmd, offset, length))
        threading.Thread(target=self._answer, daemon=True,
                         args=(s, send_lock, number, cmd, cookie, offset, length, payload)).start()
        return True

    def _answer(self, s, send_lock, number, cmd, cookie, offset, length, payload):
        try:
            self.before(number, cmd, offset, length)
            error, reply = self.error(cmd, offset, length), b""
            if not error:
                with self.lock:
                    if cmd == WRITE:
                        self.data[offset:offset + length] = payload
                    elif cmd in (ZERO, TRIM):
                        self.data[offset:offset + length] = bytes(length)
                    elif cmd == READ:
                        reply = bytes(self.data[offset:offset + length])
            with send_lock:
                s.sendall(struct.pack(">IIQ", 0x67446698, error, cookie) + reply)
        except Hangup:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        except OSError:
            pass
