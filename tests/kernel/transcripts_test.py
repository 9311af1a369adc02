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
            played = transcripts_in_guest.play([transcripts.read(path) for path in files])
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        for path, transcript in zip(files, played, strict=True):
            for then, now in zip(transcripts.read(path).commands, transcript.commands, strict=True):
                with self.subTest(file=path.name, command=then.text):
                    self.assertEqual(now.answer(), then.answer())
                    self.assertEqual(now.events, then.events)


if __name__ == "__main__":
    testing.main()
