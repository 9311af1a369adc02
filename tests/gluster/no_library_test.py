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

    def test_a_file_that_may_be_meant_as_an_image_there(self):
        meant = "(for an image on Gluster: gluster://host/vol/a.img)"
        ends = ("-u", self.path("a.sock"), "--socket", self.path("c.sock"))
        for name in ("vol@host:a.img", "host:/vol/a.img"):
            for layers in (("-f", name), ("-r", "-E", name), ("-s", "1M", "-E", name), ("--source", "./" + name)):
                said = self.run_fail(testing.lbd_binary(), "serve", *ends, *layers).stderr
                self.assertIn("No such file" if layers[0] == "--source" else meant, said)
        self.assertFalse(os.path.exists("vol@host:a.img"))
        # Who says that it is a file here is believed.
        server = self.serve("-s", "1M", "-E", self.path("vol@host:a.img"))
        self.assertEqual(server.stop(), 0)

    def test_everything_else_works(self):
        server = self.serve("--source", "mem:1M", env=self.without)
        self.assertEqual(server.stop(), 0)

    def test_an_older_library_is_told(self):
        other = dict(os.environ, LBD_GFAPI="libc.so.6")
        said = self.run_fail(testing.lbd_binary(), "image", "info", "gluster://localhost/vol/a.img", env=other).stderr
        self.assertIn("version 6 or later", said)


if __name__ == "__main__":
    testing.main()
