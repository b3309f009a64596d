"""Training of the small audio encoder: it learns to hear mouths, phones and the tune of speech.

EMO takes wav2vec as it is published. The small world needs an encoder that fits into a few
megabytes, so this stage trains one on the utterances of `speech.py`: from the outputs of all its
blocks two linear heads tell mouth, prosody and phone 50 times a second. The heads are thrown away
afterwards; the encoder is frozen in all later stages.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ..audio import AudioEncoder, encode_sound
from ..audio_encoder import AudioEncoderConfig, build_audio_encoder
from ..logmel import LogMelEncoder, log_mel
from ..measurements import pearson
from ..waveform import SAMPLE_RATE, num_frames
from ..weight_writer import save_whole
from .acting import FRAME_RATE
from .hearing_damage import warp_bands
from .listening_data import STRIDE, TARGETS, draw_batch, join_stream
from .phones import PHONES
from .stage import Batch, Stage, stream_seed
from .voices import Utterance

_TARGET_WEIGHTS = (10.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_PHONE_WEIGHT = 0.3
_SPAN = 400  # samples that a row hears
_EDGE = 8  # rows at a crop's ends that are not asked: their sound is cut off
_WARP = 0.12  # how much longer or shorter a throat may be


@dataclass(frozen=True)
class ListeningPlan:
    """What the encoder is and what it hears.

    Attributes:
        encoder: which encoder.
        seed: of weights, crops and disturbances.
        batch_seconds: sound heard in one step.
        crop_seconds: lengths of crops, drawn anew each step.
    """

    encoder: AudioEncoderConfig
    seed: int = 0
    batch_seconds: int = 64
    crop_seconds: tuple[int, ...] = (2, 4)


class ListeningHeads(nn.Module):
    """What the encoder is asked during training: linear in the outputs of all its blocks."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.targets = nn.Linear(features, len(TARGETS))
        self.phones = nn.Linear(features, len(PHONES))

    def forward(self, layers: Tensor) -> tuple[Tensor, Tensor]:
        """(..., L, D) to targets (..., 8) and phone logits (..., P)."""
        flat = rearrange(layers, "... l d -> ... (l d)")
        return self.targets(flat), self.phones(flat)


class ListeningStage(Stage):
    """Trains an audio encoder from nothing.

    Args:
        utterances: of the training voices.
        plan: what it is and what it hears.
    """

    name = "listening"

    def __init__(self, utterances: Sequence[Utterance], plan: ListeningPlan) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.stream = plan, join_stream(utterances)
        self.encoder = build_audio_encoder(plan.encoder)
        self.heads = ListeningHeads(self.encoder.num_layers * self.encoder.width)
        self.modules = nn.ModuleDict({"encoder": self.encoder, "heads": self.heads})

    def batch(self, draw: int) -> Batch:
        """Draw crops: sound (B, T), targets (B, R, 8), phones (B, R) and warp (B,)."""
        plan = self.plan
        generator = torch.Generator().manual_seed(stream_seed(plan.seed, draw, "data"))
        pick = int(torch.randint(len(plan.crop_seconds), (1,), generator=generator))
        seconds = plan.crop_seconds[pick]
        count = max(1, plan.batch_seconds // seconds)
        sound, targets, phones = draw_batch(self.stream, count, seconds, generator)
        warp = 1 + _WARP * (2 * torch.rand(count, generator=generator) - 1)
        return {"sound": sound, "targets": targets, "phones": phones, "warp": warp}

    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted errors of targets and phones over the inner rows of a batch."""
        asked, said = batch["targets"], batch["phones"]
        told, logits = self.heads(self._layers(batch))
        inner = slice(_EDGE, asked.shape[1] - _EDGE)
        errors = (told[:, inner].float() - asked[:, inner]).square().mean(dim=(0, 1))
        weights = torch.tensor(_TARGET_WEIGHTS, device=errors.device)
        phones = nn.functional.cross_entropy(
            logits[:, inner].float().flatten(0, 1), said[:, inner].flatten()
        )
        parts = {"phones": phones, "mse_open": errors[0], "mse_width": errors[1]}
        return (weights * errors).sum() + _PHONE_WEIGHT * phones, parts

    def _layers(self, batch: Batch) -> Tensor:
        """Outputs of all blocks, (B, R, L, D); a log-mel encoder hears throats of other lengths."""
        sound = nn.functional.pad(batch["sound"], (0, _SPAN - STRIDE))
        if not isinstance(self.encoder, LogMelEncoder):
            layers: Tensor = self.encoder(sound, lambda rows: rows)
            return layers
        count = batch["targets"].shape[1]
        with torch.autocast(sound.device.type, enabled=False):
            mel = warp_bands(log_mel(sound), batch["warp"])
        return self.encoder.encode_mel(mel, lambda rows: rows[:, :count])


def measure_listening(
    encoder: AudioEncoder, heads: ListeningHeads, utterances: Sequence[Utterance]
) -> dict[str, float]:
    """Measure what the encoder hears the way films use it: in the 20-s grid, at 25 fps.

    Args:
        encoder: trained.
        heads: trained with it.
        utterances: of voices it has never heard; they are joined to one long sound.

    Returns:
        Pearson r of every target over everything, `open_film` and `width_film` as medians over
        utterances whose mouth moves, and the share of frames whose phone is right (`phones`).
    """
    stream = join_stream(utterances)
    sound = stream.sound.float()
    frames = num_frames(sound.shape[0], SAMPLE_RATE, FRAME_RATE)
    features = encode_sound(encoder, sound, frames, FRAME_RATE).features
    with torch.no_grad():
        told, logits = heads(features)
    asked, said = stream.targets[::2][:frames], stream.phones[::2][:frames]
    report = {name: pearson(told[:, i], asked[:, i]) for i, name in enumerate(TARGETS)}
    spans = [slice(-(-a // 2), b // 2) for a, b in itertools.pairwise(stream.starts)]
    for i, name in enumerate(TARGETS[:2]):
        films = [pearson(told[span, i], asked[span, i]) for span in spans]
        moving = sorted(r for r in films if not math.isnan(r))
        report[f"{name}_film"] = moving[len(moving) // 2] if moving else math.nan
    report["phones"] = (logits.argmax(1) == said).float().mean().item()
    return report


def save_listening(
    path: Path,
    encoder: AudioEncoder,
    plan: ListeningPlan,
    report: Mapping[str, object],
    header: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder in the layout of a whole model: `audio_encoder.` and a JSON header.

    Args:
        path: a .safetensors file.
        encoder: trained.
        plan: how it was trained.
        report: how long it was trained and what it measured; anything JSON can hold.
        header: further entries of the file's header.
    """
    state = {f"audio_encoder.{k}": v.contiguous() for k, v in encoder.state_dict().items()}
    about = {
        "audio_encoder": json.dumps(plan.encoder.to_dict()),
        "listening": json.dumps({"plan": asdict(plan), "report": dict(report)}),
    }
    save_whole(path, state, {**about, **(header or {})})


def load_listening(path: Path) -> tuple[AudioEncoder, AudioEncoderConfig]:
    """Read what save_listening wrote.

    Raises:
        ValueError: if the file holds no audio encoder.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
        if "audio_encoder" not in header:
            raise ValueError(f"{path} holds no audio encoder; train one with `emo train listening`")
        config = AudioEncoderConfig.from_dict(json.loads(header["audio_encoder"]))
        names = [name for name in file.keys() if name.startswith("audio_encoder.")]  # noqa: SIM118
        state = {name.removeprefix("audio_encoder."): file.get_tensor(name) for name in names}
    encoder = build_audio_encoder(config)
    encoder.load_state_dict(state)
    return encoder.requires_grad_(False), config
