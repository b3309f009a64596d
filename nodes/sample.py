"""EMOSampler and MotionFrameLooper: one clip of a film, and all of them."""

from __future__ import annotations

from typing import Any

import comfy.samplers

from ..emo_core.joins import JOINS
from ..emo_core.lock import LOCKS
from .clip_sampler import Settings
from .compat import Schema, io, ui
from .condition import inputs_of_a_clip, lips_socket
from .film import Inputs
from .reel import sample_film


def sampler_widgets() -> list[io.Input]:
    """The widgets of both nodes, in this order."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
            tooltip="Seed of the film's noise, 0 to 2^64-1; another seed is another take of the "
            "same sound.",
        ),
        io.Int.Input(
            "steps", default=4, min=1, max=1000,
            tooltip="Sampling steps of a clip, 1 to 1000; emo-tiny was made for 4, weights of SD "
            "1.5's size for about 40, and time grows with them.",
        ),
        io.Float.Input(
            "cfg", default=1.6, min=0.0, max=30.0, step=0.1,
            tooltip="How strongly the clip follows portrait and sound, 0 to 30; emo-tiny was made "
            "for 1.6, Hallo's weights for 3.5, and 1 turns guidance off, which nearly halves the "
            "work.",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.SAMPLER_NAMES, default="euler",
            tooltip="The sampler; euler with the scheduler simple is DDIM, which the models were "
            "made for.",
        ),
        io.Combo.Input(
            "scheduler", options=comfy.samplers.SCHEDULER_NAMES, default="simple",
            tooltip="How the noise falls from step to step; simple is the spacing the models were "
            "made for.",
        ),
    ]  # fmt: skip


def sampler_sockets() -> list[io.Input]:
    """What overrules the widgets where it is connected, in this order."""
    return [
        io.Noise.Input(
            "noise", optional=True, tooltip="A NOISE instead of the seed's own; each clip gets a "
            "copy with a seed of its own, made of the noise's seed.",
        ),
        io.Sampler.Input(
            "sampler", optional=True, tooltip="A SAMPLER instead of sampler_name, for samplers "
            "with settings of their own.",
        ),
        io.Sigmas.Input(
            "sigmas", optional=True, tooltip="SIGMAS instead of steps and scheduler, one more "
            "than steps; the same for every clip.",
        ),
        io.Guider.Input(
            "guider", optional=True, tooltip="A GUIDER instead of cfg, from EMO Guider or core "
            "guiders on EMO Conditioning; its conditions are replaced clip by clip.",
        ),
    ]  # fmt: skip


def keeping() -> io.Input:
    """The widget that both nodes end with: saved workflows know widgets by their place."""
    return io.Boolean.Input(
        "keep_clips", default=True, optional=True,
        tooltip="Keeps finished clips in ComfyUI's output folder emo_clips, up to 2 GB, so that "
        "after an interruption, a crash or a change only what is new is sampled; turn it off to "
        "write nothing.",
    )  # fmt: skip


def existing() -> list[io.Input]:
    """The film that both nodes may voice anew, in this order."""
    return [
        io.Latent.Input(
            "existing_film", optional=True, tooltip="An existing film of the person to be voiced "
            "anew, as LATENT of the model's VAE, at its frame rate and at least as long as the "
            "sound; only what its noise mask covers is made, where it has one.",
        ),
        io.Float.Input(
            "denoise", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip="How much of the existing film is made anew, 0 to 1; lower it to keep more of "
            "its movement, leave it at 1 without one, and connected sigmas overrule it.",
        ),
    ]  # fmt: skip


def locking() -> io.Input:
    """The widget that holds colours."""
    return io.Combo.Input(
        "lock", options=list(LOCKS), default="off", optional=True,
        tooltip="Holds the mean and the spread of every clip's latents to the portrait's: weak "
        "goes a quarter of the way, strong all of it; try it when colours drift in a long film.",
    )  # fmt: skip


def joining() -> io.Input:
    """The widget that says where clips meet."""
    return io.Combo.Input(
        "joins", options=list(JOINS), default="auto", optional=True,
        tooltip="Where clips meet: plain at equal distances, quiet where the sound is quietest "
        "in the last third of a clip, overlap over frames that both clips share; auto takes what "
        "the weights were measured to do best, for emo-tiny overlap and for Hallo's plain.",
    )  # fmt: skip


def _sampled(
    inputs: Inputs, settings: Settings, keep_clips: bool, clip_index: int | None = None
) -> io.NodeOutput:
    frames, motion, text = sample_film(inputs, settings, keep_clips, clip_index)
    return io.NodeOutput(frames, motion, ui=ui.PreviewText(text))


_OUTPUTS = (
    io.Latent.Output(
        "latent", display_name="latent",
        tooltip="The sampled frames, one picture a frame; decode them with EMO Decode "
        "Video, or with core VAE Decode for pictures.",
    ),
    io.Latent.Output(
        "motion_frames_out", display_name="motion_frames",
        tooltip="The last frames of the film or clip, which the next one sees; connect them to "
        "motion_frames to go on.",
    ),
)  # fmt: skip


class EMOSampler(io.ComfyNode):
    """One clip of a film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOSampler",
            display_name="EMO Sampler",
            category="EMO/advanced",
            description="Samples one clip of a film, to chain clips by hand or to try settings on "
            "one; Motion Frame Looper samples the whole sound.",
            search_aliases=["emo", "sampler", "clip", "talking head"],
            inputs=[
                *inputs_of_a_clip(),
                io.Int.Input(
                    "clip_index", default=0, min=0, max=1_000_000,
                    tooltip="Which clip of the film, 0 for the first; each has 12 frames with "
                    "emo-tiny, and the next one needs the motion frames of this one.",
                ),
                *sampler_widgets(),
                *sampler_sockets(),
                keeping(),
                *existing(),
                locking(),
                lips_socket(),
            ],
            outputs=list(_OUTPUTS),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, reference: Any, audio_embedding: Any, clip_index: int, seed: int,
        steps: int, cfg: float, sampler_name: str, scheduler: str, region: Any = None,
        speed: Any = None, motion_frames: Any = None, motion_images: Any = None, vae: Any = None,
        noise: Any = None, sampler: Any = None, sigmas: Any = None, guider: Any = None,
        keep_clips: bool = True, existing_film: Any = None, denoise: float = 1.0, lock: str = "off",
        lips: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Sample it."""
        inputs = Inputs(
            model, reference, audio_embedding, region, speed, motion_frames, motion_images, vae,
            seed, lips, existing_film, denoise,
        )  # fmt: skip
        settings = Settings(
            steps, cfg, sampler_name, scheduler, noise, sampler, sigmas, guider, lock=lock
        )
        return _sampled(inputs, settings, keep_clips, clip_index)


class MotionFrameLooper(io.ComfyNode):
    """All clips of a film."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="MotionFrameLooper",
            display_name="EMO Motion Frame Looper",
            category="EMO",
            description="Samples the whole sound clip by clip; each clip sees the last frames of "
            "the one before, so that the movement goes on over a film of any length.",
            search_aliases=["emo", "long video", "talking head", "lip sync", "loop"],
            inputs=[
                *inputs_of_a_clip(),
                *sampler_widgets(),
                *sampler_sockets(),
                keeping(),
                *existing(),
                locking(),
                joining(),
                lips_socket(),
            ],
            outputs=list(_OUTPUTS),
        )

    @classmethod
    def execute(
        cls, model: Any, reference: Any, audio_embedding: Any, seed: int, steps: int, cfg: float,
        sampler_name: str, scheduler: str, region: Any = None, speed: Any = None,
        motion_frames: Any = None, motion_images: Any = None, vae: Any = None,
        noise: Any = None, sampler: Any = None, sigmas: Any = None, guider: Any = None,
        keep_clips: bool = True, existing_film: Any = None, denoise: float = 1.0, lock: str = "off",
        joins: str = "auto", lips: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        """Sample them."""
        inputs = Inputs(
            model, reference, audio_embedding, region, speed, motion_frames, motion_images, vae,
            seed, lips, existing_film, denoise,
        )  # fmt: skip
        settings = Settings(
            steps, cfg, sampler_name, scheduler, noise, sampler, sigmas, guider, joins=joins,
            lock=lock,
        )  # fmt: skip
        return _sampled(inputs, settings, keep_clips)
