"""The end of training: everything into one checkpoint, and the checkpoint against the table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..clips import ClipPlan
from ..face import CENTRED_PRIOR, WHOLE_PICTURE, Box, expand_box
from ..film import Material, decode, film_from, hand_over, own_vae
from ..generate import Film, generate
from ..joins import plan_joins
from ..model import EMO
from ..presets import tiny
from ..sampling import Guidance, make_sampler
from ..speed import speed_curve
from ..vae import load_vae
from ..waveform import SAMPLE_RATE, num_frames
from ..weights import Checkpoint, find_checkpoint, load_model, save_checkpoint
from .bench import Bench
from .journal import Journal, Origin
from .listening import load_listening
from .meter_check import through_vae
from .meters import METERS_FILE, PuppetMeter, load_meter, meter_record
from .origins import check_origin, digest, digests, read_origin, read_training
from .report import ROWS, measure_rows
from .report_films import ReportSettings
from .report_rows import Row
from .utterance_files import load_utterances

_STAGES = ("vae", "listening", "images", "video", "speed", "speed-layers", "decoder")
_NETWORKS = ("speed-layers", "speed", "video", "images")
_SPEED_WEIGHT = 1.3
VAES = ("decoder", "vae")
"""The last first."""


def pack(work: Path, output: Path) -> None:
    """Put the last network, VAE and audio encoder of a work folder into one checkpoint.

    Raises:
        FileNotFoundError: if a part was not trained yet.
        ValueError: if the network was trained with another VAE or audio encoder, or the decoder
            for another VAE.
    """
    network, vae = latest(work, _NETWORKS), latest(work, VAES)
    check_parts(work, network, vae)
    model = EMO(tiny())
    model.load_state_dict(weighed(load_file(network)))
    encoder, encoder_config = load_listening(work / "listening.safetensors")
    stages = {
        name: read_training(work / f"{name}.safetensors")
        for name in _STAGES
        if (work / f"{name}.safetensors").exists()
    }
    record = {"data": "puppets 0..999999", "stages": stages}
    save_checkpoint(output, model, load_vae(vae), encoder, encoder_config, record)


def weighed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network whose speed layers say what they say 1.3 times as loud.

    In a film the motion frames tell the speed that the layers have reached so far, and hold it
    back; in training they tell the true one. 1.3 was measured (docs/emo-tiny.md).
    """
    return {
        name: tensor * _SPEED_WEIGHT if "speed_attention.to_out" in name else tensor
        for name, tensor in weights.items()
    }


def check_parts(work: Path, network: Path, vae: Path) -> None:
    """Refuse parts that do not belong together; see pack()."""
    there = digests(work, ("vae", "listening"))
    check_origin(network.name, read_origin(network), there)
    if vae.stem == "decoder":
        check_origin(vae.name, read_origin(vae), digests(work, ("vae",)))


def measure(
    checkpoint: Path | str, voices: Mapping[str, Path], films: int, journal: Path | None = None,
    rows: Collection[str] = tuple(ROWS),
) -> list[Row]:  # fmt: skip
    """Measure a checkpoint on unseen puppets and voices: the behaviour table.

    Args:
        checkpoint: file or name of a model.
        voices: files of test utterances, of each of `report.voices_of(rows)` one.
        films: films of each synthesiser; the other rows take as many as that allows.
        journal: where each film's figures go; films that it has are not made again.
        rows: names of `report.ROWS` to measure.

    Returns:
        All rows of the table; those that were never measured are empty.
    """
    loaded, meter = load_model(checkpoint), load_meter()
    record = meter_record()
    settings = ReportSettings(
        num_films=films, num_controlled=max(2, films // 3), num_silent=max(2, films // 4),
        num_long=max(1, films // 12),
        speed_floor=record.get("coded", record["truth"])["head_speed_floor"],
    )  # fmt: skip
    utterances = {name: load_utterances(path) for name, path in voices.items()}
    animator = PuppetAnimator(loaded, meter)
    bench = Bench(animator, meter, animator.round_trip, animator.seams)
    origin = Origin(digest(find_checkpoint(checkpoint)), digest(METERS_FILE))
    return measure_rows(bench, utterances, settings, Journal(journal, origin), rows)


class PuppetAnimator:
    """A checkpoint as the table wants it: portrait and sound in, frames out, all in memory.

    Args:
        checkpoint: the model, with its VAE and audio encoder.
        meter: finds the face box of the portrait.
    """

    def __init__(self, checkpoint: Checkpoint, meter: PuppetMeter) -> None:
        self.checkpoint, self.meter = checkpoint, meter
        self._vae = own_vae(checkpoint)
        sampling = checkpoint.config.sampling
        self.sample = make_sampler(
            checkpoint.model.denoising_unet,
            sampling.num_inference_steps,
            Guidance(sampling.guidance_scale),
        )

    @torch.inference_mode()
    def __call__(
        self,
        portrait: Tensor,
        waveform: Tensor,
        speed: float | None = None,
        region_scale: float = 1.0,
        prior: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """Make a film; see bench.Animate."""
        film = self.film(portrait, waveform, speed, region_scale, prior, seed)
        plans = self._plans(len(film.audio))
        clips = generate(
            self.checkpoint.model, film, plans, self.sample, hand_over(self.checkpoint)
        )
        return torch.cat([decode(self._vae, latents) for latents in clips])

    def seams(self, count: int) -> list[int]:
        """Where clips meet in a film of so many frames; see ClipPlan.seam."""
        return [frame for plan in self._plans(count) for frame in plan.seam]

    def _plans(self, count: int) -> list[ClipPlan]:
        return list(plan_joins("auto", count, self.checkpoint.config.temporal))

    def film(
        self,
        portrait: Tensor,
        waveform: Tensor,
        speed: float | None = None,
        region_scale: float = 1.0,
        prior: bool = False,
        seed: int = 0,
    ) -> Film:
        """Everything that a film is made from; see bench.Animate."""
        config = self.checkpoint.config
        count = num_frames(len(waveform), SAMPLE_RATE, config.frame_rate)
        box = CENTRED_PRIOR if prior else self._box(portrait, region_scale)
        speeds = None if speed is None else speed_curve(speed, count, config.frame_rate)
        material = Material(portrait, waveform, SAMPLE_RATE, box, speeds, seed)
        return film_from(self.checkpoint, material)

    def round_trip(self, frames: Tensor) -> Tensor:
        """Frames (F, 3, H, W), 0..1, through the VAE."""
        return through_vae(self._vae, frames)

    def _box(self, portrait: Tensor, scale: float) -> Box:
        if math.isinf(scale):
            return WHOLE_PICTURE
        x, y, width, height = self.meter.read(portrait[None]).box[0].tolist()
        box = (x, y, width, height) if min(width, height) > 0.05 else CENTRED_PRIOR
        return expand_box(box, scale, scale)


def latest(work: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that a work folder has.

    Raises:
        FileNotFoundError: if it has none.
    """
    for name in names:
        if (work / f"{name}.safetensors").exists():
            return work / f"{name}.safetensors"
    raise FileNotFoundError(f"{work} has none of {', '.join(names)}; train that stage first")
