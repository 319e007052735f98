"""What every column of every table means: the contract between stages.

Five tables travel through the pipeline. ``images`` and ``restyled`` hold encoded pictures;
``screened``, ``captioned`` and ``annotated`` are side tables, joined to them by ``uid``. Every
field carries its ``meaning`` and ``unit`` in the Parquet schema itself, so a shard explains itself
to whoever opens it. Rows are never dropped: a bad one has ``status`` "rejected" and a reason in
``error``.
"""

from __future__ import annotations

import itertools

import pyarrow as pa

from tasks.errors import PedAlignError

OK = "ok"
REJECTED = "rejected"


def _field(
    name: str, kind: pa.DataType, meaning: str, unit: str = "", *, null: bool = False
) -> pa.Field:
    metadata = {"meaning": meaning} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=null, metadata=metadata)


_UID = _field(
    "uid", pa.string(), "stable name of the row; a derived row appends to its parent's uid"
)
_STATUS = (
    _field("status", pa.string(), 'whether the row can be used: "ok" or "rejected"'),
    _field("error", pa.string(), "why it cannot: a slug, a colon and the detail", null=True),
)
_BOX = pa.list_(pa.float32(), 4)

IMAGES = pa.schema(
    [
        _UID,
        _field("dataset", pa.string(), "name of the dataset in params.yaml"),
        _field("split", pa.string(), "train, val or test"),
        _field("person_id", pa.string(), "dataset/identity; null where unknown", null=True),
        _field("camera", pa.string(), "camera or sub-collection", null=True),
        _field(
            "image", pa.binary(), "the encoded picture; null where it could not be read", null=True
        ),
        _field("width", pa.int32(), "width of the picture", "pixels"),
        _field("height", pa.int32(), "height of the picture", "pixels"),
        _field("captions", pa.list_(pa.string()), "the sentences that describe the picture"),
        _field(
            "labels",
            pa.list_(pa.int8()),
            "the 27 attributes of MALS in its order: 1 yes, 0 no, -1 unknown",
            null=True,
        ),
        _field("source_path", pa.string(), "path inside the raw dataset"),
        _field("parent_uid", pa.string(), "uid of the row this one was made from", null=True),
        *_STATUS,
    ]
)

RESTYLED = pa.schema(
    [
        *IMAGES,
        _field("prompt", pa.string(), "text given to the diffusion model"),
        _field("eda_op", pa.string(), "EDA operation that made the prompt", null=True),
        _field("seed", pa.int64(), "seed of this picture's noise and of its target picture"),
        _field("mode", pa.string(), "how it was made: restyle, generate, colours or none"),
        _field("strength", pa.float32(), "share of the diffusion path that was run", "0 to 1"),
        _field("match", pa.float32(), "share moved to a target picture's statistics", "0 to 1"),
        _field("steps", pa.int32(), "denoising steps of the full path", "steps"),
        _field("guidance", pa.float32(), "classifier-free guidance scale; 1 is none"),
        _field("scheduler", pa.string(), "the sampler; null without diffusion", null=True),
        _field("noise", pa.string(), "noise random or inverted; null without diffusion", null=True),
        _field("detail", pa.float32(), "share put back of what the autoencoder lost", "0 to 1"),
        _field(
            "negative_prompt",
            pa.string(),
            "text that guidance leads away from; null without guidance",
            null=True,
        ),
        _field("control_scale", pa.float32(), "weight of DaD; 0 is the base without it"),
        _field("reuse", pa.int32(), "deep features were computed at every so many steps", "steps"),
        _field("base_revision", pa.string(), "digest or hub commit of the base diffusion model"),
        _field(
            "dad_digest",
            pa.string(),
            "digest of the DaD adapter and target statistics; null where neither was used",
            null=True,
        ),
    ]
)

_GREY = _field(
    "grey_variance",
    pa.float32(),
    "mean over (R-G, G-B, B-R) of the variance over pixels; low is grey or blank",
    "squared 8-bit levels",
)
_SIZE = _field("jpeg_bytes", pa.int32(), "size of the encoded picture", "bytes")
_PEOPLE = _field(
    "people", pa.int32(), "people that the detector found; null without one", "people", null=True
)

MEASURED = pa.schema(
    [
        _UID,
        _field("arrived", pa.bool_(), "whether earlier stages had passed it on"),
        _GREY,
        _SIZE,
        _PEOPLE,
        _field(
            "person_box",
            _BOX,
            "cx, cy, w, h of the largest person; null without one",
            "share of the picture",
            null=True,
        ),
        _field(
            "second_area",
            pa.float32(),
            "area of the second largest person's box; null without one",
            "share of the largest's",
            null=True,
        ),
        _field(
            "pose",
            pa.binary(),
            "x, y, confidence and rival of 17 joints as float32, joint by joint; null unless asked",
            "shares of the picture; about 0 to 1",
            null=True,
        ),
        _field(
            "phash",
            pa.binary(),
            "perceptual hash: luminance, blue and red chroma; null unless asked",
            "192 bits",
            null=True,
        ),
        _field("embedding", pa.binary(), "unit vector as float16; null unless asked", null=True),
        *_STATUS,
    ]
)
"""What `screen` has seen of each picture, before any rule; in the store only."""

SCREENED = pa.schema(
    [
        _UID,
        _field("keep", pa.bool_(), "whether the picture goes on"),
        _field("reason", pa.string(), "why it does not: slugs joined by a plus sign", null=True),
        _GREY,
        _SIZE,
        _PEOPLE,
        _field("pose_score", pa.float32(), "mean confidence of the 17 joints", "0 to 1", null=True),
        _field("duplicate_of", pa.string(), "uid of the picture it nearly repeats", null=True),
        *_STATUS,
    ]
)

_SEEN = pa.struct(
    [
        _field("attribute", pa.string(), "one of the 14 attributes of UniPT"),
        _field("value", pa.string(), "the likeliest value, as the file of attributes names it"),
        _field("score", pa.float32(), "its probability among the attribute's values", "0 to 1"),
    ]
)

CAPTIONED = pa.schema(
    [
        _UID,
        _field("captions", pa.list_(pa.string()), "the captions that later stages read"),
        _field("method", pa.string(), "how they were made"),
        _field(
            "styles",
            pa.list_(pa.string()),
            "the style in which each was asked for; null where no captioner spoke",
            null=True,
        ),
        _field(
            "seeds",
            pa.list_(pa.int64()),
            "the seed that each was drawn with; null where no captioner spoke",
            null=True,
        ),
        _field(
            "templates",
            pa.list_(pa.string()),
            "the template that each was made by; null where none was",
            null=True,
        ),
        _field(
            "attributes",
            pa.list_(_SEEN),
            "what was seen on the person; null where captions were not made of it",
            null=True,
        ),
        *_STATUS,
    ]
)

_ATTRIBUTE = pa.struct(
    [
        _field("kind", pa.string(), "pattern, material, length, side and the like"),
        _field("value", pa.string(), "lower-case canonical word"),
    ]
)
_PHRASE = pa.struct(
    [
        _field("text", pa.string(), "the phrase as it stands in the caption"),
        _field("start", pa.int32(), "first character; -1 if not in the caption", "code points"),
        _field("end", pa.int32(), "one past the last character; -1 likewise", "code points"),
        _field("head", pa.string(), "head noun"),
        _field("group", pa.string(), "part of the picture it belongs to"),
        _field("colours", pa.list_(pa.string()), "colour words in it"),
        _field("attributes", pa.list_(_ATTRIBUTE), "what else it says of its thing"),
    ]
)
_REGION_FIELDS = [
    _field("phrase", pa.int32(), "index into phrases"),
    _field(
        "box", _BOX, "cx, cy, w, h; the whole picture is 0.5, 0.5, 1, 1", "share of the picture"
    ),
    _field("score", pa.float32(), "the proposer's confidence", "0 to 1"),
]

ANNOTATED = pa.schema(
    [
        _UID,
        _field("caption", pa.string(), "the caption that was annotated"),
        _field("phrases", pa.list_(_PHRASE), "phrases a person could point at"),
        _field("regions", pa.list_(pa.struct(_REGION_FIELDS)), "a box for a phrase; may be empty"),
        _field(
            "rejected",
            pa.list_(
                pa.struct(
                    [*_REGION_FIELDS, _field("reason", pa.string(), "why the box was refused")]
                )
            ),
            "boxes that the filter refused",
        ),
        *_STATUS,
    ]
)

EVIDENCE = pa.schema(
    [
        _UID,
        _field(
            "phash",
            pa.binary(24),
            "perceptual hash; null where there is no picture",
            "192 bits",
            null=True,
        ),
        _field("copied", pa.string(), "why the bytes are not the original's, if so", null=True),
        *_STATUS,
    ]
)
"""What `ingest` has seen of each picture; in the store only, beside the shard."""

SCHEMAS: dict[str, pa.Schema] = {
    "images": IMAGES,
    "evidence": EVIDENCE,
    "restyled": RESTYLED,
    "measured": MEASURED,
    "screened": SCREENED,
    "captioned": CAPTIONED,
    "annotated": ANNOTATED,
}


def conform(table: pa.Table, name: str) -> pa.Table:
    """Check a table at a stage's border and give it the schema's own types and metadata.

    Args:
        table: Any table.
        name: Key of `SCHEMAS`.

    Returns:
        The table with its columns in the schema's order, cast where that loses nothing.

    Raises:
        PedAlignError: A column is missing, unknown or of another type, a required value is null,
            a status is unknown, a rejected row gives no reason, or a uid repeats or is unsorted.
    """
    schema = SCHEMAS[name]
    missing = [f.name for f in schema if f.name not in table.column_names]
    unknown = [c for c in table.column_names if c not in schema.names]
    if missing or unknown:
        raise PedAlignError(
            f"a `{name}` table lacks {missing} and has the unknown columns {unknown}",
            f"its columns are {schema.names}",
            "mend the stage that made it, or the schema in tasks/schemas.py",
        )
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise PedAlignError(
            f"a `{name}` table does not fit its schema: {error}",
            "every column has the type and nullability of tasks/schemas.py",
            "mend the stage that made it",
        ) from error
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise PedAlignError(
                f"`{name}` table: {table[field.name].null_count} nulls in `{field.name}`",
                "the column is required",
                "give the row a value, or reject it with a reason",
            )
    _check_rows(table, name)
    return table


def _check_rows(table: pa.Table, name: str) -> None:
    uids = table["uid"].to_pylist()
    if any(a >= b for a, b in itertools.pairwise(uids)):
        raise PedAlignError(
            f"the uids of a `{name}` table repeat or are out of order",
            "rows are sorted by uid and each uid stands once",
            "sort the rows; a repeated uid means that two inputs share one path",
        )
    for status, error in zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True):
        if status not in {OK, REJECTED} or (status == REJECTED) != bool(error):
            raise PedAlignError(
                f"a `{name}` row has status {status!r} with error {error!r}",
                'status is "ok" without an error, or "rejected" with one',
                "mend the stage that made the row",
            )
