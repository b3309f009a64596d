"""`emo train STAGE`: the stages in order, each with what the one before left in the work folder.

    voices     synthetic voices with phone times (needs espeak-ng)
    vae        the picture autoencoder
    listening  the audio encoder, on phones and mouths
    meters     what measures puppets, apart from everything else
    films      puppets that speak, as latents and sound features
    images     stage 1: backbone, ReferenceNet, face locator, sound
    video      stage 2: temporal modules and motion frames
    speed      stage 3: temporal modules and speed layers
    decoder    the autoencoder's decoder alone, for sharper pictures
    pack       everything into one checkpoint
    report     the behaviour table of a checkpoint
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..config import tiny
from ..model import EMO
from ..vae import AutoencoderKL, VAEConfig, load_vae, save_vae
from . import fast_norm
from .trainer import Trainer, TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained: learning rate and its floor, warm-up, batch, averaging."""

    learning_rate: float
    floor: float
    warm_up: int
    batch: int
    ema_decay: float


RECIPES = {
    "vae": Recipe(2e-3, 0.02, 100, 16, 0.999),
    "decoder": Recipe(1e-3, 0.02, 50, 16, 0.999),
    "images": Recipe(1.5e-3, 0.05, 60, 48, 0.998),
    "video": Recipe(1e-3, 0.05, 60, 5, 0.998),
    "speed": Recipe(5e-4, 0.05, 60, 6, 0.998),
}
_BEFORE = {"images": None, "video": "images", "speed": "video"}
_SHARD = 100


def add_train(subparsers: Any) -> None:
    """Add `emo train` to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train emo-tiny, stage by stage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=tuple(STAGES), help="which stage to run, or to go on with")
    parser.add_argument("--work", type=Path, default=Path("emo-work"), metavar="DIR",
                        help="folder of everything the stages make (default: emo-work)")
    parser.add_argument("--minutes", type=float, help="minutes of training, resumptions included")
    parser.add_argument("--steps", type=int, help="steps of training, resumptions included")
    parser.add_argument("--count", type=int,
                        help="voices: utterances (2600); films: puppets (2600); report: films (24)")
    parser.add_argument("--first", type=int, default=0, help="films: seed of the first puppet")
    parser.add_argument("--sound-only", action="store_true",
                        help="films: only the sound features, after a new audio encoder")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data order and noise")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    parser.add_argument("-o", "--output", type=Path,
                        help="pack: the checkpoint to write; report: the Markdown file")
    parser.add_argument("--model", default="emo-tiny", help="report: name or file of a checkpoint")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Run one stage; see add_train().

    Raises:
        ValueError: if a number is not above 0.
        NotADirectoryError: if the work folder is a file.
    """
    for name in ("minutes", "steps", "count", "threads"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0, got {value}")
    if args.work.exists() and not args.work.is_dir():
        raise NotADirectoryError(f"--work {args.work} is a file; give a folder")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    STAGES[args.stage](args)
    return 0


def operations() -> SimpleNamespace:
    """Layers for training on a CPU: a GroupNorm and an attention whose gradients are fast there."""
    return SimpleNamespace(**{**vars(fast_norm.operations), "attend": _attend})


def _attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, bias: Tensor | None = None
) -> Tensor:
    """attend() by plain matrix products: 2 to 5 times faster than the fused one on a CPU."""
    query, key, value = (
        rearrange(tokens, "B N (H d) -> (B H) N d", H=num_heads) for tokens in (query, key, value)
    )
    scores = torch.bmm(query * query.shape[-1] ** -0.5, key.transpose(1, 2))
    if bias is not None:
        by_head = rearrange(scores, "(B H) N S -> B H N S", H=num_heads)
        scores = (by_head + bias.to(scores.dtype)).flatten(0, 1)
    out: Tensor = rearrange(
        torch.bmm(scores.softmax(dim=-1), value), "(B H) N d -> B N (H d)", H=num_heads
    )
    return out


def _channels_last(module: nn.Module) -> None:
    """Lay out kernels as the convolutions of a CPU like them; changes the module in place."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _settings(args: argparse.Namespace, name: str) -> TrainSettings:
    recipe = RECIPES[name]
    return TrainSettings(
        folder=args.work / name, steps=args.steps, minutes=args.minutes,
        learning_rate=recipe.learning_rate, floor=recipe.floor, warm_up=recipe.warm_up,
        ema_decay=recipe.ema_decay, seed=args.seed, device=args.device, log_every=50,
        sheet_every=500,
    )


def _voices(args: argparse.Namespace) -> None:
    from .speech import make_utterances, save_utterances

    save_utterances(
        args.work / "voices.safetensors", make_utterances(args.count or 2600, args.seed)
    )


def _vae(args: argparse.Namespace) -> None:
    from .frames import FramePool
    from .stages import VAEStage

    tune = args.stage == "decoder"
    vae = AutoencoderKL(VAEConfig.tiny(), operations=fast_norm.operations)
    _channels_last(vae)
    if tune:
        vae.load_state_dict(load_vae(args.work / "vae.safetensors").state_dict())
    pool = FramePool(args.seed, first=64, fresh_every=4)
    stage = VAEStage(vae, pool, RECIPES[args.stage].batch, train_encoder=not tune)
    trainer = Trainer(stage, _settings(args, args.stage))
    trainer.run()
    trainer.swap_averaged()
    name = "decoder" if tune else "vae"
    save_vae(stage.export(), args.work / f"{name}.safetensors", _record(trainer, stage.measure()))


def _listening(args: argparse.Namespace) -> None:
    from ..audio_encoder import tiny_logmel
    from .listening import ListeningPlan, save_listening, train_listening
    from .speech import load_utterances

    utterances = load_utterances(args.work / "voices.safetensors")
    plan = ListeningPlan(tiny_logmel(), args.steps or 4000, args.seed, 64, (2, 4), 2e-3)
    encoder, _, report = train_listening(utterances, plan, args.work / "listening.jsonl")
    save_listening(args.work / "listening.safetensors", encoder, plan, {**report})


def _meters(args: argparse.Namespace) -> None:
    from .meter_training import MeterTraining, train_meters

    train_meters(MeterTraining(minutes=args.minutes or 25), args.work / "meters")


def _films(args: argparse.Namespace) -> None:
    from .dataset import FilmPieces, PuppetFilms
    from .listening import load_listening
    from .speech import load_utterances

    vae = load_vae(args.work / "vae.safetensors").to(args.device)
    encoder, _ = load_listening(args.work / "listening.safetensors")
    _channels_last(vae)
    utterances = load_utterances(args.work / "voices.safetensors")
    films = PuppetFilms(utterances, vae, encoder, tiny().audio.window)
    folder = args.work / "films"
    folder.mkdir(exist_ok=True)
    for first in range(args.first, args.first + (args.count or 2600), _SHARD):
        path, seeds = folder / f"puppets-{first:07d}.safetensors", range(first, first + _SHARD)
        if args.sound_only and path.exists():
            tensors = load_file(path)
            FilmPieces(**{**tensors, "audio": films.hear(seeds)}).save(path)
        elif not path.exists():
            films.make(seeds).save(path)
        logger.info("%s", path.name)


def _film_stage(args: argparse.Namespace) -> None:
    from .dataset import FilmPieces
    from .film_stages import FilmStage, initialise

    name, recipe = args.stage, RECIPES[args.stage]
    model = EMO(tiny(), operations=operations())
    _channels_last(model)
    before = _BEFORE[name]
    if before is None:
        initialise(model, args.seed)
    else:
        model.load_state_dict(load_file(args.work / f"{before}.safetensors"))
    pieces = FilmPieces.load(sorted((args.work / "films").glob("*.safetensors")))
    stage = FilmStage(name, model, pieces, recipe.batch, args.seed)
    trainer = Trainer(stage, _settings(args, name))
    trainer.run()
    trainer.swap_averaged()
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, args.work / f"{name}.safetensors", _record(trainer, {}))


def _record(trainer: Trainer, measured: dict[str, float]) -> dict[str, str]:
    """What a stage's file says of its training."""
    record = {
        "steps": trainer.step, "minutes": round(trainer.seconds / 60, 1),
        "date": date.today().isoformat(), **measured,
    }
    return {"training": json.dumps(record)}


def _pack(args: argparse.Namespace) -> None:
    from .release import pack

    pack(args.work, args.output or args.work / "emo-tiny.safetensors")


def _report(args: argparse.Namespace) -> None:
    from .release import measure
    from .speech import FLITE_VOICES, HELD_OUT_VOICES, make_utterances, save_utterances

    voices = {"espeak": HELD_OUT_VOICES, "flite": FLITE_VOICES}
    files = {name: args.work / f"voices-{name}.safetensors" for name in voices}
    for name, path in files.items():
        if not path.exists():
            save_utterances(path, make_utterances(36, 1, voices[name], "test"))
    table = measure(args.model, files, args.count or 24)
    output = args.output or args.work / "report.md"
    output.write_text(table["markdown"], encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(table), encoding="utf-8")


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "voices": _voices,
    "vae": _vae,
    "listening": _listening,
    "meters": _meters,
    "films": _films,
    "images": _film_stage,
    "video": _film_stage,
    "speed": _film_stage,
    "decoder": _vae,
    "pack": _pack,
    "report": _report,
}
