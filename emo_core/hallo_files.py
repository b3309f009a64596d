"""Hallo's and Hallo2's published `net.pth`, opened as a checkpoint of ours.

Its 2656 tensors have the names of our network already. Of these 150 weights and 10 position tables
cannot reach a film, since Hallo's inference skips the temporal modules of the coarsest level and
nothing behind the last norm of ReferenceNet is read: they are left where they are. Both programs'
files have the same names and shapes, so that something else must say which it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from .config import AudioConfig, EMOConfig, LocatorConfig
from .presets import hallo, hallo2
from .weight_files import Shapes, WeightFile

Variant = Literal["auto", "hallo", "hallo2"]
VARIANTS: tuple[Variant, ...] = ("auto", "hallo", "hallo2")

ORIGIN = "origin"
"""Entry of the header that says which of the two was taken, and why."""


def is_hallo(shapes: Shapes) -> bool:
    """Whether a file has the tensors of Hallo's net.pth, by its names."""
    starts = ("denoising_unet.", "audioproj.", "imageproj.")
    return all(any(name.startswith(start) for name in shapes) for start in starts)


def as_checkpoint(file: WeightFile, variant: Variant = "auto") -> WeightFile:
    """Hallo's file under the names and with the header of a checkpoint of ours.

    Args:
        file: whose tensors are Hallo's.
        variant: which of the two it is; "auto" asks its header, then the names of its folder and
            of the file, and takes Hallo for any other.

    Raises:
        ValueError: for an unknown variant, or shapes that no network of Hallo's kind has.
    """
    taken, reason = decide(file.path, variant)
    if "emo_config" in file.header:
        config = EMOConfig.from_json(file.header["emo_config"])
        taken, reason = config.name, "its header says so"
        if variant != "auto":
            config, taken, reason = with_variant(config, variant), variant, "it was chosen"
    else:
        config = _config(file, hallo2() if taken == "hallo2" else hallo())
    kept = {f"model.{n}": n for n in file.shapes if not without_influence(n, config)}
    header = {
        **file.header,
        "emo_config": config.to_json(),
        ORIGIN: f"taken for {taken}: {reason}",
    }
    shapes = {ours: file.shapes[theirs] for ours, theirs in kept.items()}
    unused = len(file.shapes) - len(kept)
    return WeightFile(file.path, header, shapes, lambda name: file.read(kept[name]), unused)


def decide(path: Path, variant: Variant) -> tuple[str, str]:
    """Which of the two a file is, and why.

    Raises:
        ValueError: for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    if variant != "auto":
        return variant, "it was chosen"
    for what, name in (("file", path.stem), ("folder", path.absolute().parent.name)):
        if "hallo2" in name.lower().replace("_", "").replace("-", ""):
            return "hallo2", f"its {what} is called {name}"
    return "hallo", "nothing about it says hallo2 (if it is Hallo2's, choose the variant hallo2)"


def with_variant(config: EMOConfig, variant: Variant) -> EMOConfig:
    """A configuration of Hallo's kind as the other of the two.

    Raises:
        ValueError: if it is of another kind.
    """
    if config.audio.attention != "masked3":
        raise ValueError(
            f"the choice {variant} is between Hallo's two sets of weights, and this is "
            f"{config.name}; leave the choice to the file (auto)"
        )
    wanted = hallo2() if variant == "hallo2" else hallo()
    return replace(
        config,
        name=wanted.name,
        audio=replace(config.audio, windows=wanted.audio.windows),
        temporal=replace(config.temporal, motion_mask=wanted.temporal.motion_mask),
    )


def without_influence(name: str, config: EMOConfig) -> bool:
    """Whether a tensor of net.pth cannot influence any film."""
    last = len(config.unet.widths) - 1
    for level in range(last + 1):
        skipped = f"(down_blocks\\.{level}|up_blocks\\.{last - level})\\.motion_modules\\."
        if level not in config.temporal.levels and re.match(f"denoising_unet\\.{skipped}", name):
            return True
    end = f"reference_unet.up_blocks.{last}.attentions.{config.unet.layers_per_block}."
    read = ("norm.", "proj_in.", "transformer_blocks.0.norm1.")
    return name.startswith(end) and not name.removeprefix(end).startswith(read)


def _config(file: WeightFile, preset: EMOConfig) -> EMOConfig:
    """The preset with the widths that the tensors have; what they cannot say is the preset's."""
    shapes, unet, audio = file.shapes, preset.unet, preset.audio
    try:
        blocks = sum(f"denoising_unet.down_blocks.{i}.resnets.0.conv1.weight" in shapes
                     for i in range(16))  # fmt: skip
        widths = tuple(
            shapes[f"denoising_unet.down_blocks.{i}.resnets.0.conv1.weight"][0]
            for i in range(blocks)
        )
        token_width = shapes["imageproj.norm.weight"][0]
        tokens, embedding = shapes["imageproj.proj.weight"]
        sound_width = shapes["audioproj.norm.weight"][0]
        hidden, heard = shapes["audioproj.proj1.weight"]
        sound_tokens = shapes["audioproj.proj3.weight"][0] // sound_width
        locator = tuple(
            shapes[f"face_locator.{name}.weight"][0]
            for name in ("conv_in", "blocks.1", "blocks.3", "blocks.5")
        )
        positions = shapes[
            "denoising_unet.down_blocks.0.motion_modules.0.temporal_transformer."
            "transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
        ][1]
        channels, mask_channels = (
            shapes[f"{part}.conv_in.weight"][1] for part in ("denoising_unet", "face_locator")
        )
        time_width = shapes["denoising_unet.time_embedding.linear_1.weight"][0]
    except KeyError as error:
        raise ValueError(
            f"{file.path} has the names of a Hallo checkpoint but lacks {error.args[0]}; fetch "
            "hallo/net.pth of fudan-generative-ai/hallo again"
        ) from None
    return replace(
        preset,
        unet=replace(
            unet, latent_channels=channels, widths=widths, time_width=time_width,
            face_tokens=tokens // token_width, face_token_width=token_width,
            face_embedding_width=embedding,
        ),
        audio=AudioConfig(
            audio.attention, *_layers(heard, audio), audio.window, sound_tokens, sound_width,
            hidden, audio.encoder, audio.alignment, audio.windows,
        ),
        temporal=replace(preset.temporal, max_positions=positions),
        locator=LocatorConfig(mask_channels, (locator[0], locator[1], locator[2], locator[3])),
    )  # fmt: skip


def _layers(heard: int, audio: AudioConfig) -> tuple[int, int]:
    """Layers and width of the sound's features: the preset's, or as many layers as divide."""
    each = heard // (2 * audio.window + 1)
    layers = next(n for n in range(audio.num_layers, 0, -1) if each % n == 0)
    return layers, each // layers
