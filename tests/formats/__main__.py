"""`python -m tests.formats FORMAT FOLDER` writes a small dataset in the real layout of that format.

`python -m tests.formats mutate N` damages N files of every kind and reads them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.formats import mutate
from tests.formats.dair_writer import write_dair_v2x
from tests.formats.folder_writer import write_folder
from tests.formats.opv2v_writer import write_opv2v, write_opv2v_h, write_v2xset

WRITERS: dict[str, Callable[[Path], Any]] = {
    "opv2v": write_opv2v,
    "opv2v_h": write_opv2v_h,
    "v2xset": write_v2xset,
    "dair_v2x": write_dair_v2x,
    "folder": write_folder,
}


def main(words: list[str]) -> int:
    """Write one format, or run damaged files; 2 and the known names if the words are wrong."""
    if words[:1] == ["mutate"]:
        return mutate.main(words[1:])
    if len(words) != 2 or words[0] not in WRITERS:
        usage = f"usage: python -m tests.formats FORMAT FOLDER; formats: {', '.join(WRITERS)}; or mutate N"
        print(usage, file=sys.stderr)
        return 2
    WRITERS[words[0]](Path(words[1]))
    print(f"{words[0]}: {sum(path.is_file() for path in Path(words[1]).rglob('*'))} files in {words[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
