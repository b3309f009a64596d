"""What `emo train STAGE` does: each stage reads what the one before left in the work folder.

Every file says in its header what it was made from (`origins.py`); a stage refuses what does not
belong together.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..audio_encoder import tiny_encoder
from ..model import EMO
from ..presets import tiny
from ..vae import AutoencoderKL, load_vae, save_vae
from ..vae_config import VAEConfig
from ..weight_files import open_weights
from ..weight_writer import save_whole
from . import fast_norm
from .dataset import FilmPieces, PuppetFilms
from .fast_layers import channels_last, operations
from .film_stages import FilmStage, initialise
from .frames import FramePool
from .listening import ListeningPlan, ListeningStage, load_listening, save_listening
from .meter_training import MeterPlan, MeterStage
from .meters import METERS_FILE, save_meter
from .origins import (
    check_origin,
    commit,
    digest,
    digests,
    origin_header,
    read_origin,
    read_training,
)
from .recipes import RECIPES
from .speech import make_utterances
from .stages import VAEStage
from .train_settings import TrainSettings
from .trainer import Trainer
from .utterance_files import load_utterances, save_utterances

logger = logging.getLogger(__name__)

_BEFORE = {"images": None, "video": "images", "speed": "video", "speed-layers": "speed"}
_CODERS = ("vae", "listening")
SHARD = 100
"""Puppets in a file of films."""


def make_voices(args: argparse.Namespace) -> None:
    """Let the synthesiser speak."""
    made = make_utterances(args.count or 2600, args.seed)
    save_utterances(args.work / "voices.safetensors", made)


def train_vae(args: argparse.Namespace) -> None:
    """Train the picture autoencoder, or its decoder alone."""
    tune = args.stage == "decoder"
    vae = AutoencoderKL(VAEConfig.tiny(), operations=fast_norm.operations)
    channels_last(vae)
    if tune:
        vae.load_state_dict(load_vae(_needed(args.work, "vae")).state_dict())
    pool = FramePool(args.seed, first=64, fresh_every=4)
    stage = VAEStage(vae, pool, RECIPES[args.stage].batch, train_encoder=not tune)
    stage.origin = digests(args.work, ("vae",)) if tune else {}
    trainer = Trainer(stage, _settings(args, args.stage))
    trainer.run()
    trainer.swap_averaged()
    header = _record(trainer, stage.measure()) | origin_header(stage.origin)
    save_vae(stage.export(), args.work / f"{args.stage}.safetensors", header)


def train_listening(args: argparse.Namespace) -> None:
    """Train the audio encoder: 4000 steps where nothing else is said."""
    utterances = load_utterances(_needed(args.work, "voices"))
    plan = ListeningPlan(tiny_encoder(tiny().audio), args.seed, RECIPES["listening"].batch)
    stage = ListeningStage(utterances, plan)
    stage.origin = digests(args.work, ("voices",))
    trainer = Trainer(stage, _settings(args, "listening", steps=4000))
    trainer.run()
    trainer.swap_averaged()
    report = _facts(trainer)
    header = origin_header(stage.origin)
    encoder = stage.encoder.cpu()
    save_listening(args.work / "listening.safetensors", encoder, plan, report, header)


def train_meters(args: argparse.Namespace) -> None:
    """Train what measures puppets, 25 minutes where nothing else is said, and measure it too."""
    from .meter_check import meter_worth
    from .release import VAES, latest

    spoken = load_utterances(_needed(args.work, "voices"))
    vae = load_vae(latest(args.work, VAES))
    stage = MeterStage(MeterPlan(args.seed, RECIPES["meters"].batch))
    trainer = Trainer(stage, _settings(args, "meters", minutes=25))
    trainer.run()
    trainer.swap_averaged()
    stage.finish()
    meter = stage.meter.cpu().eval()
    record = {**_facts(trainer), "frames": trainer.step * stage.plan.batch}
    path = args.work / "meters.safetensors"
    save_meter(meter, path, {**record, **meter_worth(meter, spoken, vae)})
    logger.info("to measure with it, put %s in the place of %s", path, METERS_FILE)


def make_films(args: argparse.Namespace) -> None:
    """Make puppet films in files of 100; with `--sound-only` their sound features again."""
    vae = load_vae(_needed(args.work, "vae")).to(args.device)
    encoder, _ = load_listening(_needed(args.work, "listening"))
    channels_last(vae)
    utterances = load_utterances(_needed(args.work, "voices"))
    films = PuppetFilms(utterances, vae, encoder, tiny().audio.window)
    origin = digests(args.work, _CODERS)
    folder = args.work / "films"
    folder.mkdir(exist_ok=True)
    for first in range(args.first, args.first + (args.count or 2600), SHARD):
        path, seeds = folder / f"puppets-{first:07d}.safetensors", range(first, first + SHARD)
        if not path.exists():
            films.make(seeds).save(path, origin_header(origin))
        elif args.sound_only:
            _hear_again(films, path, seeds, origin)
        else:
            check_origin(path.name, read_origin(path), origin)
        logger.info("%s", path.name)


def _hear_again(films: PuppetFilms, path: Path, seeds: range, origin: Mapping[str, str]) -> None:
    """Replace the sound features of a file, unless they are of this audio encoder already."""
    stated = read_origin(path)
    check_origin(path.name, stated, {"vae": origin["vae"]})
    if stated is not None and stated.get("listening") == origin["listening"]:
        return
    pieces = replace(FilmPieces.load([path]), audio=films.hear(seeds))
    pieces.save(path, origin_header(origin))


def train_on_films(args: argparse.Namespace) -> None:
    """Train one of the paper's stages."""
    name, recipe = args.stage, RECIPES[args.stage]
    paths = sorted((args.work / "films").glob("*.safetensors"))
    origin = film_origin(paths, digests(args.work, _CODERS))
    model = EMO(tiny(), operations=operations())
    channels_last(model)
    before = "start" if args.start else _BEFORE[name]
    if before is None:
        initialise(model, args.seed)
    else:
        path = args.start or _needed(args.work, before)
        open_weights(path, "file", "what `emo train images`, `video` or `speed` left")
        check_origin(path.name, read_origin(path), origin)
        _load_network(model, path)
        origin[before] = digest(path)
    pieces = FilmPieces.load(paths)
    coder = args.work / "vae.safetensors"  # the trainer works without it where only films are
    stage = FilmStage(name, model, pieces, recipe, args.seed,
                      load_vae(coder) if coder.exists() else None)  # fmt: skip
    stage.origin = origin
    trainer = Trainer(stage, _settings(args, name))
    trainer.run()
    trainer.swap_averaged()
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    began: dict[str, Any] = {"films": f"{len(pieces)} pieces of {_seeds_of(paths)}"}
    if args.start:
        began["start"] = read_training(args.start)
    header = _record(trainer, began) | origin_header(origin)
    save_whole(args.work / f"{name}.safetensors", tensors, header)


def _load_network(model: EMO, path: Path) -> None:
    """Load weights that a stage left.

    Raises:
        ValueError: if the file holds something else.
    """
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not hold this network; give what `emo train images`, `video` or `speed` "
            f"left ({str(error).splitlines()[1].strip()[:120]})"
        ) from error


def film_origin(paths: Sequence[Path], there: Mapping[str, str]) -> dict[str, str]:
    """Find which VAE and audio encoder made the films.

    Args:
        paths: files of film pieces.
        there: digests of those in the work folder; they may be missing where only films are.

    Returns:
        Digests by name.

    Raises:
        ValueError: if a file was made by others than the work folder or the files before it have.
    """
    known, silent = dict(there), 0
    for path in paths:
        stated = read_origin(path)
        silent += stated is None
        if stated is not None:
            check_origin(f"films/{path.name}", stated, known)
            known |= stated
    if silent:
        logger.info(
            "%d of %d files of films do not say what they were made from; taken as they are",
            silent, len(paths),
        )  # fmt: skip
    return known


def pack_checkpoint(args: argparse.Namespace) -> None:
    """Put all parts into one checkpoint."""
    from .release import pack

    pack(args.work, args.output or args.work / "emo-tiny.safetensors")


def _settings(
    args: argparse.Namespace, name: str, steps: int | None = None, minutes: float | None = None
) -> TrainSettings:
    """Settings of a stage; `steps` or `minutes` end it where the command line says nothing."""
    recipe = RECIPES[name]
    if args.steps is None and args.minutes is None:
        args = argparse.Namespace(**{**vars(args), "steps": steps, "minutes": minutes})
    return TrainSettings(
        folder=args.work / name, steps=args.steps, minutes=args.minutes,
        learning_rate=recipe.learning_rate, floor=recipe.floor, warm_up=recipe.warm_up,
        weight_decay=recipe.weight_decay, ema_decay=recipe.ema_decay, clip=recipe.clip,
        seed=args.seed, device=args.device, log_every=50, sheet_every=500,
    )  # fmt: skip


def _needed(work: Path, name: str) -> Path:
    """A file of the work folder that has to be there.

    Raises:
        FileNotFoundError: if the stage that makes it has not run.
    """
    path = work / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; run `emo train {name}` first")
    return path


def _record(trainer: Trainer, more: Mapping[str, Any]) -> dict[str, str]:
    """What a stage's file is to say of its training."""
    return {"training": json.dumps({**_facts(trainer), **more})}


def _facts(trainer: Trainer) -> dict[str, Any]:
    """Steps, time, seed, code and the last losses of a training."""
    last = (trainer.logged() or [{}])[-1]
    known = ("step", "seconds", "rate")
    return {
        "steps": trainer.step, "minutes": round(trainer.seconds / 60, 1),
        "date": date.today().isoformat(), "seed": trainer.settings.seed, "commit": commit(),
        **{name: value for name, value in last.items() if name not in known},
    }  # fmt: skip


def _seeds_of(paths: Sequence[Path]) -> str:
    """Which puppets files of films show, by their names."""
    firsts = [int(path.stem.split("-")[1]) for path in paths if path.stem.startswith("puppets-")]
    return f"puppets {min(firsts)} to {max(firsts) + SHARD - 1}" if firsts else "other films"
