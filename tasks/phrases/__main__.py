"""``python -m tasks.phrases CAPTION...`` prints the phrases of each caption as JSON."""

from __future__ import annotations

import json
import sys

from tasks.phrases import phrases_of

for caption in sys.argv[1:]:
    sys.stdout.write(json.dumps(phrases_of(caption), ensure_ascii=False) + "\n")
