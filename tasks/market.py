"""Market-1501's folders and file names (Zheng et al. 2015).

``bounding_box_train``, ``query`` and ``bounding_box_test`` hold pictures named such as
``0002_c1s1_000451_03.jpg``: person, camera, sequence, frame, detection. Below ``bounding_box_test``
person -1 is a detection of nobody (junk) and 0000 a distractor; neither is a person here, and the
name in ``source_path`` tells them apart. Other folders of the release (``gt_bbox``, ``gt_query``)
and other files (``Thumbs.db``) are left.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

FORMAT = "market1501"
"""The format's name in ``ingest.datasets``."""

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
SPLIT_OF = {TRAIN: "train", QUERY: "test", GALLERY: "test"}
"""Folder of the release to split."""
JUNK, DISTRACTOR = "-1", "0000"
"""Numbers in names that are no people's."""

_NAME = re.compile(r"^(-1|\d{4})_c(\d)s\d_\d{6}_\d{2}\.jpg$")


def read_name(path: str) -> tuple[int | None, str] | None:
    """Person (None for junk and distractors) and camera of a picture; None for any other name.

    Args:
        path: Relative to the release's folder.
    """
    found = _NAME.match(PurePosixPath(path).name)
    if found is None:
        return None
    person = None if found[1] in (JUNK, DISTRACTOR) else int(found[1])
    return person, f"c{found[2]}"
