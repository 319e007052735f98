"""Section ``caption`` of params.yaml: where captions come from.

Each method has a part of its own; a method's part is read by that method alone, and changes to
another's cost nothing (`CaptionParams.mattering`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from tasks.params import NonNegative, Positive, params

METHODS = ("captioner", "clip_attributes", "keep")
"""Ways to a caption."""


def _known_method(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"{method!r} is no method; the methods there are: {', '.join(METHODS)}")
    return method


@params
class StyleParams:
    """One way of asking for a caption."""

    prompt: str
    """Instruction or first words given to the model; never part of the caption. May be empty."""
    beams: Positive
    """Width of the beam search; 1 decodes greedily, or samples."""
    temperature: Annotated[float, Field(ge=0)]
    """0 takes the likeliest token; above, one is drawn: more diverse, less exact."""
    top_p: Annotated[float, Field(gt=0, le=1)]
    """Share of probability that sampling draws from."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"beams is {self.beams} and temperature {self.temperature}: a beam search draws "
                "nothing; set beams to 1 or temperature to 0"
            )
        return self


@params
class CaptionerParams:
    """Method ``captioner``: a model that says what it sees."""

    model: str
    """Image-text-to-text model, a hub name or folder."""
    styles: Annotated[Mapping[str, StyleParams], Field(min_length=1)]
    """Ways of asking, by name. Each caption of a picture has another style, in an order drawn by
    the picture's uid; with fewer captions than styles, a picture gets some of them."""
    max_new_tokens: Positive
    """Longest caption, tokens."""
    repetition_penalty: Annotated[float, Field(ge=1)]
    """Above 1, words that stand already become less likely."""
    batch: Positive
    """Pictures a forward pass. Another size changes floating-point noise, which can tip a close
    decision between two words, hence a parameter."""


@params
class AttributesParams:
    """Method ``clip_attributes``: likeliest attributes, and templates (UniPT, sec. 3)."""

    model: str
    """Model of pictures and texts with two towers, CLIP or SigLIP: a hub name or folder."""
    attributes: str
    """YAML file of the attributes and all words for them."""
    threshold: Annotated[float, Field(ge=0, lt=1)]
    """An optional attribute is said where its likeliest value is likelier than this."""
    batch: Positive
    """Pictures a forward pass. Another size changes floating-point noise, which can tip a close
    decision between two values, hence a parameter."""


@params
class CaptionParams:
    """Section ``caption``: where captions come from."""

    method: Annotated[str, AfterValidator(_known_method)]
    """``captioner`` describes every picture anew; ``clip_attributes`` puts what a CLIP finds in it
    into sentences; ``keep`` keeps the source's captions, or the prompt where there are none."""
    captions: Positive
    """Captions a picture. `annotate`, and so pretraining, takes the first; an export takes all."""
    seed: NonNegative
    """Seed of sampling and of every choice of styles, templates and words."""
    captioner: CaptionerParams
    """For method ``captioner`` alone."""
    clip_attributes: AttributesParams
    """For method ``clip_attributes`` alone."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        styles = self.captioner.styles
        fixed = [name for name, style in styles.items() if style.temperature == 0]
        if self.method == "captioner" and self.captions > len(styles) and fixed:
            raise ValueError(
                f"captions is {self.captions}, there are {len(styles)} styles, and the "
                f"temperature of {', '.join(fixed)} is 0: a second caption in that style would be "
                "the first again; set captions to the number of styles or the temperature above 0"
            )
        return self

    def mattering(self) -> dict[str, Any]:
        """What the captions of the chosen method depend on; with ``keep`` nothing else does."""
        if self.method == "keep":
            return {"method": self.method}
        everything = asdict(self)
        return {key: everything[key] for key in ("method", "captions", "seed", self.method)}
