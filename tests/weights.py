"""Tiny models in the folders and layouts that profile ``sd15`` names, for tests.

Every folder has the files that ``hf download`` gives for the real model, with the names of files,
classes and tensors that older versions of the libraries wrote, and the very same classes, only with
few and narrow layers. Weights are random where nothing depends on them. Where a random model would
leave the later stages without work it is given something to say: the person detector and the pose
model see one standing person in every picture, the captioner knows a sentence, the parser has
learnt three. Nothing here needs a network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import spacy
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from spacy.training import Example
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    T5Tokenizer,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

from tests.detectors import save_grounding_dino
from tests.encoders import rename, save_bert, save_clip, save_images, save_swin, write_json

CAPTION = "a man in a red shirt and black trousers"
"""What the captioner says of every picture."""
PHRASES = ["a man", "a red shirt", "black trousers"]
"""What the parser finds in it."""


def write_weights(folder: Path) -> None:
    """Write every model that profile ``sd15`` names below its ``data/weights``."""
    torch.manual_seed(0)
    save_stable_diffusion(folder / "stable-diffusion-v1-5")
    save_rtdetr(folder / "rtdetr_r50vd")
    save_vitpose(folder / "vitpose-base-simple")
    save_clip(folder / "clip-vit-large-patch14")
    save_blip2(folder / "blip2-flan-t5-xl")
    save_grounding_dino(folder / "grounding-dino-base")
    save_parser(folder / "en_core_web_sm")
    save_swin(folder / "swin-base-patch4-window7-224-in22k")
    save_bert(folder / "bert-base-uncased")


# ------------------------------------------------------------------ diffusion


def save_stable_diffusion(folder: Path) -> None:
    """Stable Diffusion 1.5's five parts: three halvings in the VAE, three in the UNet."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(
        vocab={word: at for at, word in enumerate(words)}, merges=[], model_max_length=77
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=77, bos_token_id=0, eos_token_id=1,
            pad_token_id=1,
        )
    )  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8), layers_per_block=1, norm_num_groups=2, sample_size=512,
    )  # fmt: skip
    # A random decoder paints everything nearly grey, and grey pictures are screened out.
    vae.decoder.conv_out.weight.data.mul_(10)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=2,
        cross_attention_dim=16, attention_head_dim=2,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    rename(folder / "text_encoder" / "model.safetensors", r"^", "text_model.",
            {"text_model.embeddings.position_ids": torch.arange(77)[None]})  # fmt: skip
    for new, old in (
        ("to_q", "query"),
        ("to_k", "key"),
        ("to_v", "value"),
        ("to_out.0", "proj_attn"),
    ):
        rename(folder / "vae" / "diffusion_pytorch_model.safetensors", rf"\.{new}\.", f".{old}.")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    write_json(folder / "tokenizer" / "vocab.json", {word: at for at, word in enumerate(words)})
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")


# ------------------------------------------------------------------ screening


def save_rtdetr(folder: Path) -> None:
    """RT-DETR that sees one person in every picture, as large as the picture.

    Its one level has one cell, whose anchor is the middle; biases alone decide class and size.
    """
    side = 32
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[16], feat_strides=[side],
        encoder_hidden_dim=16, encoder_ffn_dim=16, encoder_attention_heads=2,
        encode_proj_layers=[0], d_model=16, num_feature_levels=1, num_queries=1,
        decoder_in_channels=[16], decoder_ffn_dim=16, decoder_layers=2,
        decoder_attention_heads=2, num_denoising=0, id2label={0: "person", 1: "bicycle"},
    )  # fmt: skip
    model = RTDetrForObjectDetection(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bbox_embed.1.layers.2" in name or "class_embed.1" in name:
                parameter.zero_()
            if name.endswith("decoder.class_embed.1.bias"):
                parameter[0] = 3.0  # a confidence of 0.95
            if name.endswith("decoder.bbox_embed.1.layers.2.bias"):
                parameter[2:] = 20.0  # width and height
    model.save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)


STANDING = {
    # COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; x, y.
    0: (0.50, 0.18), 1: (0.53, 0.17), 2: (0.47, 0.17), 3: (0.56, 0.18), 4: (0.44, 0.18),
    5: (0.60, 0.28), 6: (0.40, 0.28), 7: (0.65, 0.40), 8: (0.35, 0.40), 9: (0.65, 0.50),
    10: (0.35, 0.50), 11: (0.56, 0.52), 12: (0.44, 0.52), 13: (0.56, 0.67), 14: (0.44, 0.67),
    15: (0.56, 0.82), 16: (0.44, 0.82),
}  # fmt: skip
"""Joints of a person who stands upright in the middle, as shares of the network's input."""


def save_vitpose(folder: Path) -> None:
    """ViTPose with its simple decoder, which reads one person off the position embedding alone."""
    size, patch, width = (256, 192), 16, 18
    backbone = VitPoseBackboneConfig(
        image_size=list(size), patch_size=[patch, patch], hidden_size=width, num_hidden_layers=1,
        num_attention_heads=2, out_indices=[1],
    )  # fmt: skip
    model = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=17))
    parameters = dict(model.named_parameters())
    rows, columns = size[0] // patch, size[1] // patch
    with torch.no_grad():
        for name, parameter in parameters.items():
            # Pictures, attention and MLPs add nothing to what the positions say.
            if any(part in name for part in ("projection", "output.dense", "fc2", "position_emb")):
                parameter.zero_()
        (positions,) = (p for n, p in parameters.items() if n.endswith("position_embeddings"))
        for joint, (x, y) in STANDING.items():
            positions[0, 1 + int(y * rows) * columns + int(x * columns), joint] = 1.0
        conv = next(p for n, p in parameters.items() if n.startswith("head.") and p.ndim == 4)
        conv.zero_()
        for joint in STANDING:
            conv[joint, joint, 1, 1] = 0.4  # a joint's token is about 2 after the normalisation
        next(p for n, p in parameters.items() if n.startswith("head.") and p.ndim == 1).zero_()
    model.save_pretrained(folder)
    images = VitPoseImageProcessorPil(size={"height": size[0], "width": size[1]})
    save_images(folder, images, "VitPoseImageProcessor")


# ------------------------------------------------------------------ captions


def save_blip2(folder: Path) -> None:
    """BLIP-2 over a T5, taught to say `CAPTION`."""
    words = sorted({*CAPTION.split(), "Describe", "the", "image", "in", "English"})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"▁{w}", -2.0) for w in words)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = Blip2Processor(images, tokenizer, num_query_tokens=4)
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    model = Blip2ForConditionalGeneration(
        Blip2Config(
            vision_config=vision,
            qformer_config={
                "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32,
                "num_hidden_layers": 2, "num_attention_heads": 2, "encoder_hidden_size": 16,
            },
            text_config={
                "model_type": "t5", "vocab_size": len(processor.tokenizer), "d_model": 32,
                "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "pad_token_id": 0,
                "eos_token_id": 1, "bos_token_id": 1, "decoder_start_token_id": 0,
                "dropout_rate": 0.0,
            },
            num_query_tokens=4,
            use_decoder_only_language_model=False,
            image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        )
    )  # fmt: skip
    _teach(model, processor)
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1  # two files and an index on the hub
    processor.tokenizer.save_pretrained(folder)
    save_images(folder, images, "BlipImageProcessor", "Blip2Processor")
    write_json(
        folder / "processor_config.json",
        {"num_query_tokens": 4, "processor_class": "Blip2Processor"},
    )


def _teach(model: Blip2ForConditionalGeneration, processor: Blip2Processor) -> None:
    """Train until it says the sentence of any picture, whatever weights it began with."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (48, 32, 3), dtype=np.uint8) for _ in range(4)]
    inputs = processor(
        images=pictures, text=["Describe the image in English"] * 4, return_tensors="pt"
    )
    labels = processor.tokenizer([CAPTION] * 4, return_tensors="pt").input_ids
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(1000):
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.997**step
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.02:
            return
    raise AssertionError(f"the tiny captioner has not learnt its sentence: {loss.item()}")


# ------------------------------------------------------------------ phrases and regions


# Words with tag and coarse tag, then the head of each word and its relation.
_TREEBANK = (
    ("a/DT/DET man/NN/NOUN in/IN/ADP a/DT/DET red/JJ/ADJ shirt/NN/NOUN and/CC/CCONJ "
     "black/JJ/ADJ trousers/NNS/NOUN",
     "1 1 1 5 5 2 5 8 5", "det ROOT prep det amod pobj cc amod conj"),
    ("the/DT/DET woman/NN/NOUN wears/VBZ/VERB blue/JJ/ADJ shoes/NNS/NOUN",
     "1 2 2 4 2", "det nsubj ROOT amod dobj"),
    ("a/DT/DET boy/NN/NOUN carries/VBZ/VERB a/DT/DET bag/NN/NOUN",
     "1 2 2 4 2", "det nsubj ROOT det dobj"),
)  # fmt: skip


def save_parser(folder: Path) -> None:
    """A trained spaCy pipeline of the kind of ``en_core_web_sm``: tagger, parser, attributes."""
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    embedding = {
        "@architectures": "spacy.HashEmbedCNN.v2", "width": 32, "depth": 2, "embed_size": 200,
        "window_size": 1, "maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None,
    }  # fmt: skip
    nlp.add_pipe(
        "tagger", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": embedding}}
    )
    state = {
        "@architectures": "spacy.TransitionBasedParser.v2", "state_type": "parser",
        "extra_state_tokens": False, "hidden_width": 32, "maxout_pieces": 2, "use_upper": True,
    }  # fmt: skip
    nlp.add_pipe("parser", config={"model": {**state, "tok2vec": embedding}, "min_action_freq": 1})
    ruler = nlp.add_pipe("attribute_ruler")
    examples, coarse = [], dict[str, str]()
    for words, heads, relations in _TREEBANK:
        triples = [word.split("/") for word in words.split()]
        coarse |= {tag: pos for _, tag, pos in triples}
        doc = nlp.make_doc(" ".join(word for word, _, _ in triples))
        gold = {"tags": [tag for _, tag, _ in triples], "heads": [int(h) for h in heads.split()],
                "deps": relations.split()}  # fmt: skip
        examples.append(Example.from_dict(doc, gold))
    optimizer = nlp.initialize(lambda: examples)
    for tag, pos in coarse.items():
        ruler.add(patterns=[[{"TAG": tag}]], attrs={"POS": pos})
    for _ in range(80):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    assert [chunk.text for chunk in nlp(CAPTION).noun_chunks] == PHRASES
    nlp.to_disk(folder)
