"""SAMs for tests: the built-in one with its weights, and untrained ones that nevertheless have an answer to each prompt."""

import copy
from functools import cache, partial

import numpy as np
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from weaksam.config import SamConfig
from weaksam.datasets.shapes import data_set_seed, draw
from weaksam.sam.load import load_sam
from weaksam.sam.prompt import Prompt
from weaksam.sam.small import build_small_sam


@cache
def trained_sam():
    """The built-in SAM; shared, not to be changed."""
    return load_sam(SamConfig(name="builtin"))


def drawn_image(height, width):
    """Drawn shapes, which the built-in SAM has learned to segment."""
    return draw(data_set_seed(0, "test", 0), max(height, width)).image[:height, :width].copy()


def noise(height, width):
    """An image of random pixels."""
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def points_on(image, *lengths):
    """Prompts with the given numbers of points on the object, drawn on an image."""
    rng = np.random.default_rng(1)
    height, width = image.shape[:2]
    return [Prompt(points_xy=(rng.random((n, 2)) * [width, height]).astype(np.float32)) for n in lengths]


def stock_answers(sam, image, prompts, mask_indices):
    """One ``SamPredictor.predict`` per prompt: logits at full size, predicted IoU and low-res logits, one row per mask."""
    predictor = SamPredictor(sam)
    predictor.set_image(image)

    def predict(prompt, multimask):
        labels = (
            np.ones(len(prompt.points_xy)) if prompt.labels is None and prompt.points_xy is not None else prompt.labels
        )
        return predictor.predict(prompt.points_xy, labels, prompt.box_xyxy, None, multimask, return_logits=True)

    answers = []
    for prompt in prompts:
        three, single = predict(prompt, True), predict(prompt, False)
        answers.append([np.concatenate(columns)[list(mask_indices)] for columns in zip(three, single, strict=True)])
    return [torch.from_numpy(np.concatenate(columns)) for columns in zip(*answers, strict=True)]


def tiny_sam():
    """A SAM of the published shape (linear patches of 16) with other sizes than the built-in one, and one layer more."""
    dim, side, grid = 32, 96, 6
    encoder = ImageEncoderViT(
        img_size=side, patch_size=16, embed_dim=24, depth=1, num_heads=2, out_chans=dim, window_size=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, global_attn_indexes=(0,),
    )  # fmt: skip
    nn.init.normal_(encoder.pos_embed)
    transformer = TwoWayTransformer(depth=3, embedding_dim=dim, mlp_dim=16, num_heads=2)
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=dim, image_embedding_size=(grid, grid), input_image_size=(side, side), mask_in_chans=4
        ),
        mask_decoder=MaskDecoder(transformer_dim=dim, transformer=transformer, iou_head_hidden_dim=16),
    )


def in_double(sam):
    """``sam`` in float64, where rounding is far smaller than any mistake and decides no pixel at a mask's edge."""
    sam = copy.deepcopy(sam).double()
    positions = sam.prompt_encoder.pe_layer
    encode = positions._pe_encoding
    positions._pe_encoding = lambda xy: encode(xy.double())  # segment-anything hands it float32
    return sam


def lively_sam(build=build_small_sam):
    """``build()`` with seeded random weights, scaled until each prompt gets its own blots and some get none."""
    torch.manual_seed(0)
    sam = build().eval().requires_grad_(False)
    decoder = sam.mask_decoder
    for weight in decoder.transformer.parameters():
        if weight.dim() == 2:
            weight *= 6
    for head in (*decoder.output_hypernetworks_mlps, decoder.iou_prediction_head):
        for layer in head.layers:
            layer.weight *= 3
    for head in decoder.output_hypernetworks_mlps:
        head.layers[-1].weight *= 8
    sam.mask_threshold = 7.0
    return sam
