# SPDX-License-Identifier: MIT
"""Without Gluster's client library LBD works, and says what to install when it is asked for an image there."""

import os

import testing


class NoLibrary(testing.Case):
    def setUp(self):
        super().setUp()
        self.without = dict(os.environ, LBD_GFAPI="libgfapi-that-is-not-there.so")

    def test_says_which_package_to_install(self):
        for words in (("image", "info", "gluster://localhost/vol/a.img"),
                      ("serve", "-u", self.path("a.sock"), "-f", "gluster://localhost/vol/a.img"),
                      ("map", "-E", "gluster://localhost/vol/a.img")):
            said = self.run_fail(testing.lbd_binary(), *words, env=self.without).stderr
            self.assertIn("libgfapi-that-is-not-there.so", said)
            self.assertIn("install the package libgfapi0", said)

    def test_everything_else_works(self):
        server = self.serve("--source", "mem:1M", env=self.without)
        self.assertEqual(server.stop(), 0)

    def test_an_older_library_is_told(self):
        other = dict(os.environ, LBD_GFAPI="libc.so.6")
        said = self.run_fail(testing.lbd_binary(), "image", "info", "gluster://localhost/vol/a.img", env=other).stderr
        self.assertIn("version 6 or later", said)


if __name__ == "__main__":
    testing.main()
