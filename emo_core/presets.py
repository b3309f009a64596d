"""The models that there are: EMO's own size, Hallo's and Hallo2's, and the small one that ships."""

from __future__ import annotations

from dataclasses import replace

from .config import (
    AudioConfig,
    EMOConfig,
    LocatorConfig,
    SamplingConfig,
    SpeedConfig,
    TemporalConfig,
    UNetConfig,
)  # fmt: skip

# Degrees per frame at 30 fps. The paper recommends 0.1-1.3 and calls 1.5 jittery: buckets are dense
# there, and each one's soft step reaches its neighbours.
_SPEED = SpeedConfig(
    centres=(0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.3, 1.7, 2.2),
    radii=(0.15, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6),
    window=2,
    width=64,
)


def emo() -> EMOConfig:
    """EMO as published, at SD 1.5's widths: f = 12, n = 4, m = 2, 512 x 512, 30 fps.

    What the paper leaves open and we chose: five audio tokens of 768 (one a frame of the window),
    a locator added after the first convolution, the speed buckets, SD 1.5's own schedule with its
    noise prediction (eq. 1), guidance 3.5 (the paper never mentions guidance; its descendants use
    3.5).
    """
    return EMOConfig(
        name="emo",
        picture_size=512,
        latent_factor=8,
        frame_rate=30,
        unet=UNetConfig(
            latent_channels=4,
            widths=(320, 640, 1280, 1280),
            attention_levels=(0, 1, 2),
            layers_per_block=2,
            num_heads=8,
            norm_groups=32,
            time_width=1280,
            feed_forward_mult=4,
            reference_attention="layer",
            face_tokens=0,
            face_token_width=0,
            face_embedding_width=0,
            position_grid=0,
        ),
        audio=AudioConfig("layer", 12, 768, 2, 5, 768, 0, "wav2vec2", "before", "grid"),
        temporal=TemporalConfig((0, 1, 2, 3), 2, 32, 12, 4, "zeros", "latents"),
        speed=_SPEED,
        locator=LocatorConfig(1, (16, 32, 64, 128)),
        sampling=SamplingConfig("scaled_linear", "epsilon", 40, 3.5),
    )


def hallo() -> EMOConfig:
    """Hallo's architecture (fudan-generative-vision/hallo), whose weights are published."""
    return EMOConfig(
        name="hallo",
        picture_size=512,
        latent_factor=8,
        frame_rate=25,
        unet=UNetConfig(
            latent_channels=4,
            widths=(320, 640, 1280, 1280),
            attention_levels=(0, 1, 2),
            layers_per_block=2,
            num_heads=8,
            norm_groups=32,
            time_width=1280,
            feed_forward_mult=4,
            reference_attention="concat",
            face_tokens=4,
            face_token_width=768,
            face_embedding_width=512,
            position_grid=0,
            reference_order="published",
            reference_rounding="float16",
        ),
        audio=AudioConfig("masked3", 12, 768, 2, 32, 768, 512, "wav2vec2", "before", "whole_file"),
        temporal=TemporalConfig((0, 1, 2), 2, 32, 16, 2, "image", "pixels"),
        speed=None,
        locator=LocatorConfig(3, (16, 32, 64, 128)),
        sampling=SamplingConfig("linear_zero_snr", "v_prediction", 40, 3.5),
    )


def hallo2() -> EMOConfig:
    """Hallo2's: Hallo's network, with greyed motion frames and sound in pieces of a minute."""
    first = hallo()
    return replace(
        first,
        name="hallo2",
        audio=replace(first.audio, windows="pieces_60s"),
        temporal=replace(first.temporal, motion_mask=0.25),
    )


def tiny() -> EMOConfig:
    """The embedded small model: EMO's modules at 128 x 128, trained on the puppet world."""
    return EMOConfig(
        name="emo-tiny",
        picture_size=128,
        latent_factor=8,
        frame_rate=25,
        unet=UNetConfig(
            latent_channels=12,
            widths=(64, 96),
            attention_levels=(0, 1),
            layers_per_block=1,
            num_heads=4,
            norm_groups=16,
            time_width=96,
            feed_forward_mult=2,
            reference_attention="layer",
            face_tokens=0,
            face_token_width=0,
            face_embedding_width=0,
            position_grid=16,
        ),
        audio=AudioConfig("layer", 4, 128, 2, 5, 128, 0, "logmel", "after", "grid"),
        temporal=TemporalConfig((0, 1), 1, 16, 12, 4, "zeros", "latents", joins="overlap"),
        speed=_SPEED,
        locator=LocatorConfig(1, (8, 16, 32, 32)),
        sampling=SamplingConfig("cosine", "v_prediction", 4, 1.6),
    )
