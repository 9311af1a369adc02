# SPDX-License-Identifier: MIT
"""The real dmsetup under `lbd run` says, to the byte, what it said to the kernel (tests/golden/transcripts)."""

import player
import testing
import transcripts


class Transcripts(player.Case):
    pass


def add_tests():
    for path in sorted((testing.SOURCE_DIR / "tests/golden/transcripts").glob("*.transcript")):
        def test(case, path=path):
            case.play(transcripts.read(path))
        setattr(Transcripts, f"test_{path.stem.replace('-', '_')}", test)


add_tests()

if __name__ == "__main__":
    testing.main()
