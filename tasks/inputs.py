"""Section ``inputs`` of params.yaml: the files and folders that stages read, by mode.

DVC takes them as dependencies (``${inputs.NAME}`` in dvc.yaml), so a stage depends on what it uses
in the chosen mode and on nothing else: `NOTHING` stands where it uses nothing from disk. A folder
of shards may also lie on any location of fsspec and DVC, ``s3://bucket/mals`` for example.
"""

from __future__ import annotations

from pathlib import Path

from tasks.errors import PedAlignError
from tasks.params import params
from tasks.shards import location

NOTHING = "data/nothing"
UNTRAINED = "training.json"
"""In ``data/checkpoints/dad`` where `adapt` has trained nothing: ``{"method": "none"}``."""


@params
class Inputs:
    """What the chosen profile reads."""

    adapt: str
    """The target's shards; DaD learns the look of their train split."""
    adapt_captions: str
    """Side table of the target's captions (`describe`), which then count and those of its shards do
    not; `NOTHING` where the target has its own."""
    restyle: str
    """Source shards; with ``mode: generate`` the target's, whose captions become prompts."""
    dad: str
    """The ControlNet; `NOTHING` samples from the base alone, or with ``mode: none`` not at all."""
    pretrain_images: str
    """The pictures that pretraining reads."""
    pretrain_annotations: str
    """Their phrases and regions."""
    init: str
    """Folder of the checkpoint that pretraining starts from; `NOTHING` where it starts from
    encoders of their own."""
    base: str
    """Folder of the base diffusion model; `NOTHING` where it comes from the hub."""
    poser: str
    """Folder of the pose model; `NOTHING` where it comes from the hub or nobody is judged."""
    people: str
    """Folder of the person detector; `NOTHING` where it comes from the hub or none is asked."""
    embedder: str
    """Folder of the vision model that tells near-duplicates; `NOTHING` where none does so."""
    judge: str
    """Folder of the judge's vision model; `NOTHING` where it comes from the hub or is trained."""
    captioner: str
    """Folder of the captioner, or of the model that attributes are read with; `NOTHING` where it
    comes from the hub or captions are kept."""
    attributes: str
    """File of attributes and phrases; `NOTHING` where captions are not made of them."""
    detector: str
    """Folder of the open-set detector; `NOTHING` where it comes from the hub or is built in."""
    parser: str
    """Folder of the spaCy pipeline; `NOTHING` where it is an installed package or built in."""
    words: str
    """Shards whose train captions say which words are looked for; `NOTHING` unless
    ``annotate.phrases`` is ``words``."""
    vision: str
    """Folder of the vision encoder's starting weights; `NOTHING` where they come from the hub."""
    text: str
    """Folder of the text encoder's starting weights; `NOTHING` where they come from the hub."""
    evaluations: str
    """What the report reads of evaluations; `NOTHING` where there is none, since no test picture
    has a caption."""
    reid: str
    """What the report reads of re-identifications; `NOTHING` where ``reid.datasets`` is empty."""


def optional(path: str) -> Path | None:
    """The path, or None for `NOTHING`."""
    return None if path == NOTHING else location(path)


def adapter(inputs: Inputs) -> Path | None:
    """The DaD adapter's folder, or None for the base alone.

    Raises:
        PedAlignError: `adapt` has left no adapter there but a note that it trained none.
    """
    folder = optional(inputs.dad)
    if folder is not None and (folder / UNTRAINED).exists():
        raise PedAlignError(
            f"inputs.dad is {inputs.dad}, where adapt has trained nothing (adapt.method: none)",
            "the target's look is an adapter's, and an adapter is trained",
            "set adapt.method to controlnet or lora, or inputs.dad to data/nothing: restyle.mode "
            "none, or generate and restyle by the base alone",
        )
    return folder
