# SPDX-License-Identifier: MIT
"""The kernel still says what tests/golden/transcripts has it say: the judge of LBD is the kernel itself."""

import build_guest
import testing
import transcripts
import transcripts_in_guest

# Of another guest, whose disks have another size.
OTHER = {"errors.transcript", "status.transcript"}


class Transcripts(testing.Case):
    def test_the_kernel_answers_as_in_the_files(self):
        folder = testing.SOURCE_DIR / "tests/golden/transcripts"
        files = [path for path in sorted(folder.glob("*.transcript"))
                 if path.name not in OTHER]
        self.assertGreater(len(files), 20)
        try:
            for path in files:
                with self.subTest(file=path.name):
                    self.compare(path.name, transcripts.read(path))
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))

    def compare(self, name, asked):
        """In a guest of its own: what one leaves in a kernel, errors in its memory included, is not the next one's."""
        played, = transcripts_in_guest.play([asked])
        for then, now in zip(asked.commands, played.commands, strict=True):
            with self.subTest(file=name, command=then.text):
                self.assertEqual(now.answer(), then.answer())
                self.assertEqual(now.events, then.events)


if __name__ == "__main__":
    testing.main()
