# SPDX-License-Identifier: MIT
"""Random scripts of dmsetup commands (random_scripts.py): LBD answers all of them as the kernel does.

By hand: LBD_RANDOM_SCRIPTS="KIND SEED COUNT, ..." runs others.
"""

import os

import build_guest
import player
import random_scripts
import testing
import transcripts_in_guest

SCRIPTS = "verbs 1 80, stacks 1 25, snapshots 1 25"


class Random(player.Case):
    def test_the_kernel_answers_alike(self):
        wanted = [words.split() for words in os.environ.get("LBD_RANDOM_SCRIPTS", SCRIPTS).split(",")]
        asked = [random_scripts.script(kind, int(seed), int(count)) for kind, seed, count in wanted]
        try:
            answered = transcripts_in_guest.play(asked)
        except build_guest.Unavailable as reason:
            self.skipTest(str(reason))
        for transcript in answered:
            with self.subTest(transcript.remarks[0]):
                self.play(transcript)


if __name__ == "__main__":
    testing.main()
