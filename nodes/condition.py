"""EMOConditioning: everything one clip sees, for core samplers and any guider."""

from __future__ import annotations

from typing import Any

import torch

from ..emo_core.clips import clip_seed
from ..emo_core.generate import clip_conditions
from .compat import Schema, io
from .conds import positive_and_negative
from .film import Inputs, clip_plan, film_of, frames_of, hand_over_of, say_what_is_missing
from .sockets import Audio, Reference, Speed


def inputs_of_a_clip() -> list[io.Input]:
    """The sockets that EMOConditioning, EMOSampler and MotionFrameLooper share, in this order."""
    return [
        io.Model.Input(
            "model", tooltip="The MODEL of EMO Model Loader, with or without LoRAs and other "
            "patches; it samples the film's clips.",
        ),
        Reference.Input(
            "reference", tooltip="The portrait of EMO ReferenceNet Encode, encoded with the same "
            "MODEL; it decides whose face speaks.",
        ),
        Audio.Input(
            "audio_embedding", tooltip="The sound of EMO Load Audio Embedding; its length is the "
            "length of the film.",
        ),
        io.Mask.Input(
            "region", optional=True, tooltip="Where the face may be, white inside, from "
            "EMO Face Locator Mask or any mask of the portrait; a batch of as many masks as the "
            "film has frames moves with it, other batches are joined, and open it is the usual "
            "place of a portrait.",
        ),
        Speed.Input(
            "speed", optional=True, tooltip="How fast the head turns, from EMO Speed Buckets; "
            "leave it open and the model decides.",
        ),
        io.Latent.Input(
            "motion_frames", optional=True, tooltip="The last frames before the clip, from the "
            "same output of the clip before; leave it open at the beginning of a film.",
        ),
        io.Image.Input(
            "motion_images", optional=True, tooltip="The last frames before the clip as pictures "
            "of the model's own size, to go on from a film; needs vae.",
        ),
        io.Vae.Input(
            "vae", optional=True, tooltip="The VAE, needed for motion_images and for weights that "
            "hand motion frames on as pictures; emo-tiny needs none.",
        ),
    ]  # fmt: skip


def lips_socket() -> io.Input:
    """The socket that the same three nodes end with: new ones are only appended."""
    return io.Mask.Input(
        "lips", optional=True, tooltip="Where the lips are, white inside, from EMO Face Locator "
        "Mask or any mask of the portrait; only Hallo's weights hear apart at the lips, and left "
        "open they are taken where they usually are in the region.",
    )  # fmt: skip


class EMOConditioning(io.ComfyNode):
    """One clip's conditions for core samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOConditioning",
            display_name="EMO Conditioning",
            category="EMO/advanced",
            description="Prepares one clip of a film for core KSampler, SamplerCustomAdvanced and "
            "any guider; Motion Frame Looper does all of this for you.",
            search_aliases=["emo", "conditioning", "clip", "ksampler"],
            inputs=[
                *inputs_of_a_clip(),
                io.Int.Input(
                    "clip_index", default=0, min=0, max=1_000_000,
                    tooltip="Which clip of the film, 0 for the first; each has 12 frames with "
                    "emo-tiny, and the next one needs the motion frames of this one.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the whole film, 0 to 2^64-1; the clip's own seed is made of "
                    "it and of clip_index.",
                ),
                lips_socket(),
            ],
            outputs=[
                io.Model.Output(
                    "model_out", display_name="model",
                    tooltip="The same MODEL, to be passed on to the sampler.",
                ),
                io.Conditioning.Output(
                    "positive", display_name="positive",
                    tooltip="The branch that sees the portrait, the sound, the region "
                    "and the speed.",
                ),
                io.Conditioning.Output(
                    "negative", display_name="negative",
                    tooltip="The branch that sees nothing but the motion frames, for "
                    "guidance; cfg 1 leaves it out.",
                ),
                io.Latent.Output(
                    "latent", display_name="latent",
                    tooltip="An empty LATENT of the clip's frames and size, for the "
                    "sampler; denoise stays at 1.",
                ),
                io.Int.Output(
                    "clip_seed", display_name="clip_seed",
                    tooltip="The clip's own seed, for the sampler or its noise; it "
                    "differs from clip to clip.",
                ),
                io.Int.Output(
                    "frames", display_name="frames",
                    tooltip="How many of the clip's frames belong to the film; the last "
                    "clip has fewer than are sampled.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, reference: Any, audio_embedding: Any, clip_index: int, seed: int,
        region: Any = None, speed: Any = None, motion_frames: Any = None,
        motion_images: Any = None, vae: Any = None, lips: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Prepare it."""
        inputs = Inputs(
            model, reference, audio_embedding, region, speed, motion_frames, motion_images, vae,
            seed, lips,
        )  # fmt: skip
        conditioner, film = film_of(inputs)
        plan = clip_plan(conditioner.config, frames_of(inputs), clip_index)
        say_what_is_missing(film, clip_index)
        hand_over, last = hand_over_of(inputs, film), film.motion
        if hand_over is not None:
            last = hand_over(last, plan)
        with torch.no_grad():
            made = clip_conditions(
                conditioner, film, plan, conditioner.encode_portrait(film.portrait), last
            )
        positive, negative = positive_and_negative(made)
        shape = (conditioner.config.temporal.num_frames, *film.portrait.shape[1:])
        return io.NodeOutput(
            model, positive, negative, {"samples": torch.zeros(shape)},
            clip_seed(seed, clip_index), plan.kept,
        )  # fmt: skip
