"""Annotated rows of any text, what two are compared by, and how the released code reads a box."""

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from tasks.images import encode_jpeg
from tasks.phrases import load_parser, parse
from tasks.schemas import ANNOTATED, IMAGES
from tasks.shards import image_uid, write_folder


def bits(annotation):
    """Regions as what counts of them: text, box and score, to the bit."""
    return sorted(
        (
            annotation["phrases"][region["phrase"]]["text"],
            np.array([*region["box"], region["score"]], np.float32).tobytes(),
        )
        for region in annotation["regions"]
    )


def placed(annotation):
    """The same, with the place in the caption."""
    return sorted(
        (
            *(annotation["phrases"][region["phrase"]][key] for key in ("text", "start", "end")),
            np.array([*region["box"], region["score"]], np.float32).tobytes(),
        )
        for region in annotation["regions"]
    )


def released_pixels(box, width, height):
    """As the released loader reads a box: int(), then it asserts that something is left."""
    cx, cy, w, h = box
    x, y = int((cx - w / 2) * width), int((cy - h / 2) * height)
    w, h = int(w * width), int(h * height)
    assert w > 0
    assert h > 0
    return x, y, w, h


WORDS = st.sampled_from(
    [
        "a",
        "red",
        "hat",
        "A",
        "Red",
        "man",
        "İ",
        "ß",
        "ſ",
        "é",
        "e\u0301",
        "👩‍🦰",
        "人",
        "in",
        "hat,",
    ]
)


@st.composite
def rows(draw):
    """A caption and spans of it in order, with spans of other letters and texts from elsewhere."""
    words = draw(st.lists(WORDS, min_size=1, max_size=9))
    caption = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:n]) for n in range(len(words))]
    phrases = []
    at = 0
    while at < len(words):
        long = draw(st.integers(0, 3))
        if long:
            start, last = starts[at], min(at + long, len(words)) - 1
            end = starts[last] + len(words[last])
            text = caption[start:end]
            if draw(st.booleans()) and len(text.swapcase()) == len(text) and draw(st.booleans()):
                text = text.swapcase()
            phrases.append({"text": text, "start": start, "end": end})
        at += max(long, 1)
    if draw(st.booleans()):
        phrases.append({"text": draw(st.text(max_size=4)), "start": -1, "end": -1})
    numbers = st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5)
    told = [n for n in range(len(phrases)) if draw(st.integers(0, 3))]
    values = [draw(numbers) for _ in told]
    regions = [
        {"phrase": n, "box": v[:4], "score": v[4]} for n, v in zip(told, values, strict=True)
    ]
    return {"caption": caption, "phrases": phrases, "regions": regions}


CAPTIONS = (
    "a man in a red shirt, black pants and white shoes",
    "The woman has long hair. The woman carries a blue bag and wears a blue dress",
    "«Une» man with a café-coloured coat 👩‍🦰 and a striped scarf",
    "walking slowly",
    "A WOMAN IN A GREEN COAT WITH A BLACK BACKPACK AND A BLACK BACKPACK",
)


def one(number, seed=0):
    """Row n: 7 could not be read, 9 was refused by annotation, every fourth has a thin box."""
    rng = np.random.default_rng([seed, number])
    caption = CAPTIONS[number % len(CAPTIONS)]
    width, height = int(rng.integers(16, 60)), int(rng.integers(32, 120))
    (said,) = parse(load_parser(), [caption])
    regions = []
    for at in range(len(said)):
        w, h = rng.uniform(0.2, 1, 2).astype(np.float32)
        if at == 0 and number % 4 == 0:
            w = np.float32(0.9 / width)
        cx = np.float32(rng.uniform(w / 2, 1 - w / 2))
        cy = np.float32(rng.uniform(h / 2, 1 - h / 2))
        if rng.random() < 0.8:
            score = np.float32(rng.uniform(0.35, 1))
            regions.append({"phrase": at, "box": [cx, cy, w, h], "score": score})
    error = {7: "truncated: 3 bytes", 9: "no-caption: nothing"}.get(number)
    status = {"status": "rejected" if error else "ok", "error": error}
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    uid = image_uid("made", str(number))
    image = {
        "uid": uid, "dataset": "made", "split": "train", "camera": None, "person_id": None,
        "image": None if number == 7 else encode_jpeg(pixels), "width": width, "height": height,
        "captions": [caption], "labels": None, "source_path": f"{number}.jpg", "parent_uid": None,
        **(status if number == 7 else {"status": "ok", "error": None}),
    }  # fmt: skip
    rejected = [{"phrase": 0, "box": [0.5, 0.5, 1, 1], "score": 0.1, "reason": "low-confidence"}]
    annotation = {
        "uid": uid, "caption": "" if error else caption,
        "phrases": [] if error else [p.record() for p in said],
        "regions": [] if error else regions,
        "rejected": rejected if said and not error else [], **status,
    }  # fmt: skip
    return image, annotation


def write(root, count, seed=0):
    images, annotated = zip(*(one(n, seed) for n in range(count)), strict=True)
    for name, told, schema in (("", images, IMAGES), ("annotated", annotated, ANNOTATED)):
        table = pa.Table.from_pylist(list(told), schema)
        write_folder(root / name, [table], name or "images", shard_rows=12)
    return root
