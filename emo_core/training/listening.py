"""Training of the small audio encoder: it learns to hear mouths, phones and the tune of speech.

EMO takes wav2vec as it is published. The small world needs an encoder that fits into a few
megabytes, so this stage trains one on the utterances of `speech.py`: from the outputs of all its
blocks two linear heads tell mouth, prosody and phone 50 times a second. The heads are thrown away
afterwards; the encoder is frozen in all later stages.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from ..audio import ROW_RATE, SAMPLE_RATE, AudioEncoder, encode_sound, num_frames
from ..audio_encoder import AudioEncoderConfig, build_audio_encoder
from ..logmel import LogMelEncoder, log_mel
from .acting import drivers
from .hearing_damage import Damage, damage_sound, warp_bands
from .phones import PHONES, mouth_track, phone_track
from .voices import Utterance

logger = logging.getLogger(__name__)

TARGETS = ("open", "width", "teeth", "tongue", "loudness", "onset", "pitch", "voiced")
_TARGET_WEIGHTS = (10.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_PHONE_WEIGHT = 0.3
_LOUDNESS, _PITCH, _VOICED = 4, 6, 7
_GAP = SAMPLE_RATE // 4  # silence between joined utterances
_STRIDE, _SPAN = SAMPLE_RATE // ROW_RATE, 400
_EDGE = 8  # rows at a crop's ends that are not asked: their sound is cut off


@dataclass(frozen=True)
class ListeningPlan:
    """How the encoder is trained.

    Attributes:
        encoder: which encoder.
        steps: optimizer steps.
        seed: of weights, crops and disturbances.
        batch_seconds: sound heard in one step.
        crop_seconds: lengths of crops, drawn anew each step.
        learning_rate: of AdamW, at the top of its cosine.
    """

    encoder: AudioEncoderConfig
    steps: int
    seed: int
    batch_seconds: int
    crop_seconds: tuple[int, ...]
    learning_rate: float


@dataclass(frozen=True)
class Stream:
    """Utterances joined to one long sound, with what is to be heard in it at 50 Hz.

    Attributes:
        sound: (T,) float16 at 16 kHz.
        targets: (R, 8) in the order of TARGETS.
        phones: (R,) indices into PHONES.
        starts: the row at which each utterance begins, and the number of rows.
    """

    sound: Tensor
    targets: Tensor
    phones: Tensor
    starts: tuple[int, ...]


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


def truth(utterance: Utterance, rows: int) -> tuple[Tensor, Tensor]:
    """What is to be heard in an utterance.

    Args:
        utterance: with its phones.
        rows: rows at 50 Hz; row r tells the time r / 50 + 0.02 s, so that row 2i tells the middle
            of video frame i at 25 fps.

    Returns:
        Targets (rows, 8) and phone classes (rows,).
    """
    fine = mouth_track(utterance.phones, 2 * rows + 1, 2 * ROW_RATE)
    mouth = (fine[1::2] + fine[2::2]) / 2
    heard = drivers(utterance.waveform)
    tune = torch.stack([heard.loudness, heard.onset, heard.pitch, heard.voiced], dim=1)
    places = (torch.arange(rows) / 2).clamp(max=tune.shape[0] - 1)
    below, above = places.floor().long(), places.ceil().long()
    tune = torch.lerp(tune[below], tune[above], (places - below)[:, None])
    phones = phone_track(utterance.phones, 2 * rows + 1, 2 * ROW_RATE)[2::2]
    return torch.cat([mouth, tune], dim=1), phones


def join(utterances: Sequence[Utterance]) -> Stream:
    """Join utterances to one sound, a quarter of a second apart.

    Raises:
        ValueError: if there is no utterance.
    """
    if not utterances:
        raise ValueError("training needs at least one utterance; run `emo train voices` first")
    sounds, targets, phones, starts = [], [], [], [0]
    for utterance in utterances:
        length = -(-(utterance.waveform.numel() + _GAP) // _STRIDE) * _STRIDE
        asked, said = truth(utterance, length // _STRIDE)
        missing = length - utterance.waveform.numel()
        sounds.append(nn.functional.pad(utterance.waveform.float(), (0, missing)).half())
        targets.append(asked)
        phones.append(said)
        starts.append(starts[-1] + length // _STRIDE)
    return Stream(torch.cat(sounds), torch.cat(targets), torch.cat(phones), tuple(starts))


def draw_batch(
    stream: Stream, count: int, seconds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw disturbed crops of a stream.

    Args:
        stream: the sound.
        count: B crops.
        seconds: of one crop.
        generator: of the draw.

    Returns:
        Sound (B, T), targets (B, R, 8) and phones (B, R), T = 320 R.
    """
    rows = seconds * ROW_RATE
    damage = Damage.draw(count, generator)
    sounds, targets, phones = [], [], []
    for pace in damage.pace.tolist():
        span = math.ceil(rows * pace) + 1
        last = max(1, stream.phones.shape[0] - span)
        start = int(torch.randint(last, (1,), generator=generator))
        index = (torch.arange(rows) * pace).long().clamp(max=span - 1) + start
        index = index.clamp(max=stream.phones.shape[0] - 1)
        place = torch.arange(rows * _STRIDE) * pace
        below = place.long() + start * _STRIDE
        below = below.clamp(max=stream.sound.shape[0] - 2)
        pair = stream.sound[below].float(), stream.sound[below + 1].float()
        sounds.append(torch.lerp(*pair, (place - place.floor())))
        targets.append(stream.targets[index])
        phones.append(stream.phones[index])
    sound, asked = torch.stack(sounds), torch.stack(targets)
    voiced = (asked[..., _VOICED] > 0.25).float()
    asked[..., _PITCH] += voiced * torch.log2(damage.pace)[:, None] / 1.5
    louder = asked[..., _LOUDNESS] + damage.gain_db[:, None] / 40
    asked[..., _LOUDNESS] = louder.clamp(0, 1) * (asked[..., _LOUDNESS] > 0)
    return damage_sound(sound, damage, generator), asked, torch.stack(phones)


def _loss(
    encoder: AudioEncoder, heads: ListeningHeads, batch: tuple[Tensor, ...], warp: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Weighted errors of targets and phones over the inner rows of a batch."""
    sound, asked, said = batch
    sound = nn.functional.pad(sound, (0, _SPAN - _STRIDE))
    with torch.autocast("cpu", torch.bfloat16):
        if isinstance(encoder, LogMelEncoder):
            with torch.autocast("cpu", enabled=False):
                mel = warp_bands(log_mel(sound), warp)
            layers = encoder.encode_mel(mel, lambda rows: rows[:, : asked.shape[1]])
        else:
            layers = encoder(sound, lambda rows: rows)
        told, logits = heads(layers)
    inner = slice(_EDGE, asked.shape[1] - _EDGE)
    errors = (told[:, inner].float() - asked[:, inner]).square().mean(dim=(0, 1))
    weights = torch.tensor(_TARGET_WEIGHTS)
    phones = nn.functional.cross_entropy(
        logits[:, inner].float().flatten(0, 1), said[:, inner].flatten()
    )
    loss = (weights * errors).sum() + _PHONE_WEIGHT * phones
    entries = {"loss": loss.item(), "phones": phones.item()}
    entries |= {f"mse_{name}": e for name, e in zip(TARGETS[:2], errors.tolist(), strict=False)}
    return loss, entries


def train_listening(
    utterances: Sequence[Utterance],
    plan: ListeningPlan,
    log: Path | None = None,
    log_every: int = 50,
) -> tuple[AudioEncoder, ListeningHeads, dict[str, float]]:
    """Train an audio encoder from nothing.

    Args:
        utterances: of the training voices.
        plan: how.
        log: JSONL file to append to.
        log_every: steps between two lines.

    Returns:
        The encoder, its heads (for measuring) and the last line of the log.
    """
    torch.manual_seed(plan.seed)
    generator = torch.Generator().manual_seed(plan.seed)
    stream = join(utterances)
    encoder = build_audio_encoder(plan.encoder)
    heads = ListeningHeads(encoder.num_layers * encoder.width)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, plan.learning_rate, (0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan.steps))
    started = time.monotonic()
    entries: dict[str, float] = {}
    for step in range(1, plan.steps + 1):
        pick = int(torch.randint(len(plan.crop_seconds), (1,), generator=generator))
        seconds = plan.crop_seconds[pick]
        batch = draw_batch(stream, max(1, plan.batch_seconds // seconds), seconds, generator)
        warp = 1 + 0.12 * (2 * torch.rand(batch[0].shape[0], generator=generator) - 1)
        loss, entries = _loss(encoder, heads, batch, warp)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % log_every == 0 or step == plan.steps:
            entries = {"step": step, "seconds": time.monotonic() - started, **entries}
            logger.info("listening %s", json.dumps(entries))
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entries) + "\n")
    return encoder.requires_grad_(False), heads.requires_grad_(False), entries


def _rate(step: int, steps: int) -> float:
    """Warm-up over 40 steps, then half a cosine."""
    return min(1.0, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps)))


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two tracks (F,); 0 where one of them does not move."""
    a, b = a - a.mean(), b - b.mean()
    norm = (a.norm() * b.norm()).item()
    return (a @ b).item() / norm if norm > 1e-8 else 0.0


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
        utterances, and the share of frames whose phone is right (`phones`).
    """
    stream = join(utterances)
    sound = stream.sound.float()
    frames = num_frames(sound.shape[0], SAMPLE_RATE, 25)
    features = encode_sound(encoder, sound, frames, 25).features
    with torch.no_grad():
        told, logits = heads(features)
    asked, said = stream.targets[::2][:frames], stream.phones[::2][:frames]
    report = {name: pearson(told[:, i], asked[:, i]) for i, name in enumerate(TARGETS)}
    spans = [slice(-(-a // 2), b // 2) for a, b in itertools.pairwise(stream.starts)]
    for i, name in enumerate(TARGETS[:2]):
        films = sorted(pearson(told[span, i], asked[span, i]) for span in spans)
        report[f"{name}_film"] = films[len(films) // 2]
    report["phones"] = (logits.argmax(1) == said).float().mean().item()
    return report


def save_listening(
    path: Path, encoder: AudioEncoder, plan: ListeningPlan, report: dict[str, object]
) -> None:
    """Write an encoder in the layout of a whole model: `audio_encoder.` and a JSON header.

    Args:
        path: a .safetensors file.
        encoder: trained.
        plan: how it was trained.
        report: what it measured; anything JSON can hold.
    """
    from safetensors.torch import save_file

    state = {f"audio_encoder.{k}": v.contiguous() for k, v in encoder.state_dict().items()}
    header = {
        "audio_encoder": json.dumps(plan.encoder.to_dict()),
        "listening": json.dumps({"plan": asdict(plan), "report": report}),
    }
    save_file(state, path, header)


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
