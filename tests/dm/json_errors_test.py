# SPDX-License-Identifier: MIT
"""What the kernel logs of a wrong table is in the daemon's log and, its first line, in the JSON error."""

import json
import re
import shlex
import socket

import mapped
import testing
import transcripts


class JsonErrors(mapped.Case):
    def test_wrong_tables(self):
        path = self.path("lbd.sock")
        daemon = self.start([testing.lbd_binary(), "daemon", "--socket", path, "--log-level", "warn"], env=self.env,
                            ready=lambda: testing.accepts(path))
        transcript = transcripts.read(testing.SOURCE_DIR / "tests/golden/transcripts/errors.transcript")
        count, size_bytes = transcript.disks()
        for _ in range(count):
            self.make_disk(size_bytes)
        refused = 0
        with socket.socket(socket.AF_UNIX) as to:
            to.connect(path)
            answers = to.makefile("r", encoding="utf-8")

            def ask(method, **params):
                request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
                to.sendall(json.dumps(request).encode() + b"\n")
                return json.loads(answers.readline())

            for command in transcript.commands:
                words = shlex.split(transcripts.place(command.text, self.disks, []))
                if words[1] != "create":
                    continue
                with self.subTest(table=words[4]):
                    answer = ask("device.create", name=words[2], table=words[4])
                    self.assertEqual("error" in answer, command.status != 0, answer)
                    if "error" not in answer:
                        self.assertNotIn("error", ask("device.remove", name=words[2]))
                        continue
                    refused += 1
                    said = "device-mapper: " + answer["error"]["message"]  # perhaps with the reason behind it
                    self.assertTrue(any(said.startswith(line) for line in command.logged), said)
                    for line in command.logged:
                        self.assertIn(line, daemon.output())
        self.assertGreater(refused, 60)

    def test_a_cipher_that_no_library_has_is_named(self):
        cipher = "capi:adiantum(xchacha12,aes)-plain64"
        table = f"0 1024 crypt {cipher} {'00' * 32} 0 vda 0 1 sector_size:4096"
        self.make_disk(1 << 20)
        done = self.under_lbd("dmsetup", "create", "c", "--table", table, cwd=self.path("dev"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("device-mapper: reload ioctl on c (253:0) failed: No such file or directory\nCommand failed.\n",
                      done.stderr)
        self.assertRegex(done.stderr, f"(?m)device-mapper: crypt: there is no cipher, .* for '{re.escape(cipher)}'")
        self.assertRegex(done.stderr, r"(?m)mapper: table: 253:0: crypt: Error allocating crypto tfm \(-ENOENT\)$")
        done = self.under_lbd("lbd", "device", "create", "c", "--table", table, cwd=self.path("dev"))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, r"crypto tfm \(-ENOENT\): there is no cipher, .* for '.*adiantum")


if __name__ == "__main__":
    testing.main()
