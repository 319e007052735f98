"""A dual encoder: images and texts to features that are compared by their cosine.

UniPT (sec. 4.1): each token of either encoder goes through one linear map (a 1x1 convolution),
and the feature is the largest value of every channel over the tokens. Pads are left out of it; the
released code takes them in, so that there a text's feature depends on its padding. With CLIP's two
towers the feature is CLIP's own (`DualConfig.pooling`): the class token's and the end token's
projection, which is what fine-tuned CLIPs in this field start from.

What is unusual: pixels come as `models.retrieval` says, whatever the image encoder was trained on;
the model maps them to its own statistics.

Shapes: B rows, C channels, H x W pixels, P image tokens, L text tokens, D width of a token, E width
of a projected token and of the pooled feature, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dual.config import DualConfig
from models.dual.granularity import Granularity
from models.dual.text import ClipTextEncoder, text_encoder
from models.dual.vision import PatchEncoder, vision_encoder
from models.mra.text import TextEncoder
from models.mra.vision import VisionEncoder
from models.retrieval import MEAN, STD, RetrievalModel


class DualEncoder(RetrievalModel):
    """Image-text retrieval by two encoders.

    Attributes:
        config: Sizes.
        vision_encoder: Images to tokens.
        text_encoder: Texts to tokens; a BERT also has the MLM head.
        vision_proj, text_proj: The linear map of each token, (D -> E).
        granularity: LGUR's parts, on projected tokens, or None.
    """

    config: DualConfig
    fuses: ClassVar[bool] = False
    vision_encoder: PatchEncoder | VisionEncoder
    text_encoder: TextEncoder | ClipTextEncoder
    granularity: Granularity | None
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, config: DualConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = vision_encoder(config)
        self.text_encoder = text_encoder(config)
        bias = config.pooling == "max"  # CLIP's projections have none
        self.vision_proj = nn.Linear(config.vision_dim, config.embed_dim, bias=bias)
        self.text_proj = nn.Linear(config.text_dim, config.embed_dim, bias=bias)
        for head in (self.vision_proj, self.text_proj):
            nn.init.normal_(head.weight, std=0.02)  # as in the released code
            if bias:
                nn.init.zeros_(head.bias)
        self.granularity = None
        if config.granularity is not None:
            self.granularity = Granularity(config.embed_dim, config.granularity)
        given, own = (MEAN, STD), (config.image_mean, config.image_std)
        mean, std, own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (*given, *own))
        self.register_buffer("pixel_scale", std / own_std, persistent=False)
        self.register_buffer("pixel_shift", (mean - own_mean) / own_std, persistent=False)

    @classmethod
    def from_config(cls, config: DualConfig) -> DualEncoder:
        """A model with random weights (from torch's current seed)."""
        return cls(config)

    @property
    def feature_dim(self) -> int:
        """Width of the features that are compared: with granularity, what that makes of them."""
        if self.granularity is None:
            return self.config.embed_dim
        return self.granularity.feature_dim

    @property
    def has_mlm(self) -> bool:
        """Whether the text encoder predicts masked words."""
        return self.config.has_mlm

    # --- features -------------------------------------------------------------------------------

    def encode_image(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            image_BCHW: Pixels of `config.image_size`, normalised as `models.retrieval` says.

        Returns:
            Projected tokens (B, P, E), those in front first, and the features (B, `feature_dim`)
            that ranking compares, normalised, float32.
        """
        tokens_BPE = self.image_tokens(image_BCHW)
        feature_BE = self.image_feature(tokens_BPE).float()
        if self.granularity is None:
            return tokens_BPE, F.normalize(feature_BE, dim=-1)
        # LGUR leaves the class token out; so are all that are no patches.
        parts_BKF = self.granularity.image_parts(tokens_BPE[:, self.config.prefix :])
        return tokens_BPE, self.granularity.feature(feature_BE, parts_BKF.float())

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Encode texts, padded to any length.

        Args:
            ids_BL: Ids of the text encoder's tokenizer.
            mask_BL: 1 for a token, 0 for padding, which stands last.

        Returns:
            Projected tokens (B, L, E), and the features (B, `feature_dim`) that ranking compares,
            normalised, float32.
        """
        tokens_BLE = self.text_tokens(ids_BL, mask_BL)
        feature_BE = self.text_feature(tokens_BLE, mask_BL).float()
        if self.granularity is None:
            return tokens_BLE, F.normalize(feature_BE, dim=-1)
        parts_BKF = self.granularity.text_parts(tokens_BLE, mask_BL)
        return tokens_BLE, self.granularity.feature(feature_BE, parts_BKF.float())

    def image_feature(self, tokens_BPE: Tensor) -> Tensor:
        """The feature of whole images, not normalised: (B, E).

        Args:
            tokens_BPE: Of `image_tokens`; those in front take part in the maximum, as in the
                released code. (Swin's mean never is the largest.)
        """
        if self.config.pooling == "own":
            return tokens_BPE[:, 0]
        return tokens_BPE.amax(1)

    def text_feature(self, tokens_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """The feature of whole texts, not normalised: (B, E).

        Args:
            tokens_BLE: Of `text_tokens`.
            mask_BL: 1 for a token, 0 for padding, which has no influence.
        """
        if self.config.pooling == "own":
            last_B = mask_BL.sum(1) - 1  # the end token: the only one that has read everything
            return tokens_BLE[torch.arange(len(tokens_BLE), device=mask_BL.device), last_B]
        return max_pool(tokens_BLE, mask_BL)

    # --- tokens ---------------------------------------------------------------------------------

    def image_tokens(self, image_BCHW: Tensor) -> Tensor:
        """Projected tokens of images: (B, P, E), `config.prefix` tokens in front first."""
        return self.project_image(self.image_states(image_BCHW))

    def text_tokens(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Projected tokens of texts: (B, L, E)."""
        return self.project_text(self.word_states(ids_BL, mask_BL))

    def image_states(self, image_BCHW: Tensor) -> Tensor:
        """What the image encoder makes of images, not projected: (B, P, D)."""
        found: Tensor = self.vision_encoder(self._own_pixels(image_BCHW))
        return found

    def word_states(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """What the text encoder makes of texts, not projected: (B, L, D)."""
        return self.text_encoder.encode(ids_BL, mask_BL)

    def project_image(self, states_BPD: Tensor) -> Tensor:
        """The image side's linear map of each token: (B, P, E)."""
        found: Tensor = self.vision_proj(states_BPD)
        return found

    def project_text(self, states_BLD: Tensor) -> Tensor:
        """The text side's linear map of each token: (B, L, E)."""
        found: Tensor = self.text_proj(states_BLD)
        return found

    def mlm_logits(self, states_D: Tensor) -> Tensor:
        """Logits over the vocabulary: (..., V).

        Args:
            states_D: Of `word_states`, (..., D): only the positions that somebody reads.

        Raises:
            ValueError: The text encoder has no such head.
        """
        if not isinstance(self.text_encoder, TextEncoder):
            raise ValueError(
                f"masked words of a {self.config.text.kind} text encoder: it has neither a head "
                "that predicts them nor a mask token; set the weight of MLM to 0, or start from a "
                "BERT"
            )
        found: Tensor = self.text_encoder.cls(states_D)
        return found

    def mlm_parameters(self) -> list[nn.Parameter]:
        """What only `mlm_logits` uses: the MLM head but for the word table that it shares."""
        if not isinstance(self.text_encoder, TextEncoder):
            return []
        head = self.text_encoder.cls.predictions
        return [*head.transform.parameters(), head.bias]

    def _own_pixels(self, image_BCHW: Tensor) -> Tensor:
        """Pixels as the image encoder was trained with, in its precision."""
        dtype = self.vision_proj.weight.dtype
        return (image_BCHW * self.pixel_scale + self.pixel_shift).to(dtype)

    # --- folders --------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into a folder."""
        from models.dual.checkpoint import save

        save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **changes: Any) -> DualEncoder:
        """Load what `save_pretrained` wrote.

        Args:
            folder: The folder.
            changes: Fields of `DualConfig` to change, and Swin's `window_size`. With another image
                size positions are resized. With another `granularity` that module starts from
                random weights (from torch's current seed). Another shape of anything else is an
                error.

        Raises:
            ValueError: A folder that holds no such model, or weights of another shape.
        """
        from models.dual.checkpoint import load

        return load(Path(folder), changes)

    def load_starting_weights(
        self, vision: str | Path | None, text: str | Path | None
    ) -> dict[str, list[str]]:
        """Start the encoders from models in transformers' layout; of CLIPs, the projections too.

        Args:
            vision: A ViT, DeiT, CLIP or Swin: a folder, a name on the hub, or the original Swin's
                file. None leaves it random.
            text: A BERT or CLIP. None leaves it random.

        Returns:
            Parameter names under "loaded", "resized" (positions) and "new".

        Raises:
            ValueError: A model of another kind or other sizes, or none at all.
        """
        from models.dual.starting import load_starting_weights

        return load_starting_weights(self, vision, text)

    def start_from(self, folder: str | Path) -> dict[str, list[str]]:
        """Start from a checkpoint of either road, as far as it has the parts.

        Returns:
            Parameter names under "loaded", "resized" (positions) and "new".

        Raises:
            ValueError: A folder without a checkpoint, or with other encoders.
        """
        from models.dual.continuing import start_dual

        return start_dual(self, Path(folder))


def max_pool(tokens_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """The largest value of every channel over the tokens that the mask lets in: (B, E)."""
    return tokens_BLE.masked_fill(~mask_BL.bool()[:, :, None], -torch.inf).amax(1)
