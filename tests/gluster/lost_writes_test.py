# SPDX-License-Identifier: MIT
"""Two of three bricks are killed and come back under write load: is every answered write there afterwards?

usage: lost_writes_test.py [--qemu]   with --qemu the same through QEMU's driver, for comparison; it may lose
"""

import os
import struct
import sys
import threading
import time

import cluster
import testing

BLOCK = 4096
CLIENTS = 6
BLOCKS_PER_CLIENT = 2000
WITH_QEMU = "--qemu" in sys.argv
KILL_AT_S, RESTORE_AT_S, END_AT_S = 1.0, 3.5, 9.0


def content(client, block, round_number):
    return struct.pack("<QQQ", client, block, round_number).ljust(64, b"\xa5") * (BLOCK // 64)


class Client(threading.Thread):
    """Writes its blocks in turn, each time with other bytes, syncs now and then, and goes on after errors."""

    def __init__(self, number, uri, end):
        super().__init__()
        self.number, self.uri, self.end = number, uri, end
        self.answered = {}  # block: round of the last write that was answered with success
        self.unsure = set()  # blocks whose last write was answered with an error
        self.errors = self.sync_errors = self.writes = 0
        self.after = 0  # writes answered after the first error

    def run(self):
        nbd = testing.require_module("nbd")
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        turn = 0
        while time.monotonic() < self.end:
            block = self.number * BLOCKS_PER_CLIENT + turn % BLOCKS_PER_CLIENT
            try:
                handle.pwrite(content(self.number, block, turn), block * BLOCK)
                self.answered[block] = turn
                self.unsure.discard(block)
                self.writes += 1
                self.after += self.errors > 0
            except nbd.Error:
                self.errors += 1
                self.unsure.add(block)
                time.sleep(0.02)
            turn += 1
            if turn % 32 == 0:
                try:
                    handle.flush()
                except nbd.Error:
                    self.sync_errors += 1
        handle.shutdown()


def lost_blocks(clients, read):
    lost = 0
    for client in clients:
        for block, turn in client.answered.items():
            if block not in client.unsure:
                lost += read(block * BLOCK, BLOCK) != content(client.number, block, turn)
    return lost


class LostWrites(testing.Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = cluster.Cluster()
        cls.addClassCleanup(cls.cluster.close)

    def experiment(self, volume, serve):
        testing.require_module("nbd")
        self.cluster.make_volume(volume)
        image = self.cluster.uri("a.img", volume)
        self.run_ok(testing.lbd_binary(), "image", "create", image, str(CLIENTS * BLOCKS_PER_CLIENT * BLOCK))
        uri = serve(image)
        begin = time.monotonic()
        clients = [Client(n, uri, begin + END_AT_S) for n in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(KILL_AT_S)
        self.cluster.kill_bricks(2, volume)
        time.sleep(RESTORE_AT_S - KILL_AT_S)
        self.cluster.restore_bricks(volume)
        for client in clients:
            client.join()
        for what in ("writes", "errors", "sync_errors", "after"):
            print(f"  {what}: {sum(getattr(c, what) for c in clients)}", flush=True)
        return image, clients

    def lost_on_bricks(self, volume, clients):
        self.cluster.wait_healed(volume)
        out = []
        for brick in self.cluster.brick_paths(volume):
            fd = os.open(brick / "a.img", os.O_RDONLY)
            out.append(lost_blocks(clients, lambda at, n, fd=fd: os.pread(fd, n, at)))
            os.close(fd)
        return out

    def through_lbd(self, volume, options=""):
        server = None

        def serve(image):
            nonlocal server
            server = self.serve("-f", image + options)
            return server.uri

        image, clients = self.experiment(volume, serve)
        self.assertGreater(sum(c.errors for c in clients), 0, "the bricks were not missed")
        self.assertGreater(sum(c.after for c in clients), 100, "service did not return")
        handle = testing.require_module("nbd").NBD()
        handle.connect_uri(server.uri)
        handle.flush()  # covers everything that was answered
        lost = lost_blocks(clients, lambda at, n: bytes(handle.pread(n, at)))
        handle.shutdown()
        self.assertEqual(server.stop(), 0)
        on_bricks = self.lost_on_bricks(volume, clients)
        print(f"  through LBD {options}: {lost} lost, on the bricks {on_bricks}", flush=True)
        self.assertEqual(lost, 0)
        self.assertEqual(on_bricks, [0, 0, 0])

    def test_lbd_loses_nothing(self):
        self.through_lbd("plain")

    def test_lbd_loses_nothing_with_write_behind(self):
        self.through_lbd("behind", "?write-behind=on")

    def test_qemu_for_comparison(self):
        if not WITH_QEMU:
            self.skipTest("only with --qemu")
        testing.require("qemu-nbd")
        socket = self.path("qemu.sock")

        def serve(image):
            self.start(["qemu-nbd", "-f", "raw", "-k", socket, "-e", "8", "-t", "--cache=writeback", image],
                       ready=lambda: os.path.exists(socket))
            return f"nbd+unix:///?socket={socket}"

        _, clients = self.experiment("qemu", serve)
        print(f"  through qemu-nbd: lost on the bricks {self.lost_on_bricks('qemu', clients)}", flush=True)


if __name__ == "__main__":
    cluster.enter()
    sys.argv = sys.argv[:1]  # what is left is for the test's runner
    testing.main()
