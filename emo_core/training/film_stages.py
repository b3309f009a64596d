"""The paper's stages: 1 images, 2 video, 3 speed (EMO, "Training Strategies").

Stage 1 trains the backbone, ReferenceNet and the face locator on single frames; stage 2 adds the
temporal modules on clips whose first frames are motion frames; stage 3 trains only the temporal
modules and speed layers, sound frozen, or the model would follow the speed instead of the sound.
The paper adds sound in stage 2; ours hears from stage 1 on, because a batch of single frames shows
ten times as many mouths as a batch of clips. For the same reason every other step of stage 2 may be
one of stage 1 (`Recipe.pictures`), as image and video batches are mixed elsewhere (Ho et al., Video
Diffusion Models, section 3): single frames pass by the temporal modules.

The loss looks closer at mouths and eyes, and, where a recipe's `brows` says so (stages 2 and 3), at
brows too: they move with the sound, but are a few latent cells that change by a fraction of one.
The paper weighs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..attention import RelativePositions
from ..config import EMOConfig
from ..face import region_mask
from ..model import EMO, ClipInputs
from ..sampling import NUM_TIMESTEPS, alphas_cumprod
from ..vae import AutoencoderKL
from .dataset import FilmPieces
from .dropout import draw_audience
from .film_sheet import film_sheet
from .places import closer_look, with_brows
from .recipes import Recipe
from .regions import draw_region
from .stage import Batch, Stage, stream_seed

StageName = Literal["images", "video", "speed", "speed-layers"]
_SPEED_STAGES = ("speed", "speed-layers")

# Chance that a clip is a first one, with zero maps for motion frames.
_FIRST_CLIP = 0.25
# Chance in stage 3 that the motion frames of a clip all show the last one. They tell how fast the
# head was, so that nothing would be learned from the speeds where they are true.
_HELD = 0.5
# Pieces at the end that are not trained on, at most a tenth of all: they are measured and shown.
_HELD_OUT = 16
# Largest noise on motion frames, so that the errors of one clip are not carried to the next.
_MOTION_NOISE = 0.3
# The part of u (see loss()) that single frames of stage 2 are drawn from: timesteps above 708.
_PICTURE_NOISE = 0.35
# How much more the loss weighs the middle of a mouth and of an eye.
_MOUTH, _EYE = 4.0, 1.5
_GAINS = (_MOUTH, _EYE, _EYE)


class FilmStage(Stage):
    """One of the paper's stages on film pieces.

    Args:
        name: which stage.
        model: trained in place.
        pieces: what it is trained on.
        recipe: how many frames ("images") or clips a step has, and how much brows weigh; the
            weights are scaled so that their mean stays what it is without brows.
        seed: of the order of the data.
        vae: that the pieces were encoded with, for sample sheets; None for none.
    """

    def __init__(
        self, name: StageName, model: EMO, pieces: FilmPieces, recipe: Recipe, seed: int = 0,
        vae: AutoencoderKL | None = None,
    ) -> None:  # fmt: skip
        self.name, self.recipe = name, recipe
        self.model, self.pieces, self.seed, self._vae = model, pieces, seed, vae
        self._num_held = min(_HELD_OUT, len(pieces) // 10)
        self.config: EMOConfig = model.config
        if self.config.speed and self.config.speed.window > self.config.audio.window:
            raise ValueError(
                f"films know the speeds of {self.config.audio.window} frames more on either side, "
                f"and a speed window of {self.config.speed.window} asks for more; make it smaller"
            )
        self.modules = nn.ModuleDict({"model": model})
        choose_trained(model, name)
        left = alphas_cumprod(self.config.sampling.schedule)
        self._signal, self._noise = left.sqrt().float(), (1 - left).sqrt().float()

    def batch(self, draw: int) -> Batch:
        """Draw clips or pictures; which ones follows from the seed and the draw alone."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, draw, "data"))
        count, num_frames = self.recipe.batch, self.config.temporal.num_frames
        if self.recipe.pictures and draw % 2:
            count, num_frames = self.recipe.pictures, 1
        elif self.name == "images":
            num_frames = 1
        return self._batch(count, num_frames, generator)

    def measure(self) -> dict[str, float]:
        """Errors of the same few clips, or pictures, of the pieces that are held out."""
        if not self._num_held:
            return {}
        num_frames = 1 if self.name == "images" else self.config.temporal.num_frames
        device = next(self.model.parameters()).device
        batch = self._batch(_HELD_OUT, num_frames, torch.Generator().manual_seed(0), held_out=True)
        there = {name: tensor.to(device) for name, tensor in batch.items()}
        _, parts = self.loss(there, torch.Generator(device).manual_seed(0), 0)
        return {f"held_out_{name}": float(value) for name, value in parts.items()}

    def sample_sheet(self, path: Path) -> None:
        """Write films of four people, held out where there are enough of them; see film_sheet()."""
        if self._vae is not None:
            shown = range(len(self.pieces))[-4:]
            film_sheet(self.model, self._vae, self.pieces, shown, path)

    def _batch(
        self, count: int, num_frames: int, generator: torch.Generator, held_out: bool = False
    ) -> Batch:
        items = [self._item(num_frames, generator, held_out) for _ in range(count)]
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def _item(
        self, num_frames: int, generator: torch.Generator, held_out: bool = False
    ) -> dict[str, Tensor]:
        pieces, temporal = self.pieces, self.config.temporal
        window = self.config.audio.window

        def below(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        trained = len(pieces) - self._num_held
        piece = trained + below(self._num_held) if held_out else below(trained)
        portrait = below(pieces.portraits.shape[1])
        length, past = pieces.frames.shape[1], temporal.num_motion_frames
        is_first = float(torch.rand((), generator=generator)) < _FIRST_CLIP
        earliest = 0 if is_first or num_frames == 1 else past
        first = earliest + below(length - num_frames - earliest + 1)
        frames = slice(first, first + num_frames)

        def around(reach: int) -> slice:  # pieces know as many frames more as the sound's window
            return slice(first + window - reach, first + window + num_frames + reach)

        fast = self.config.speed.window if self.config.speed else 0
        before = torch.arange(first - past, first)
        if self.name in _SPEED_STAGES and float(torch.rand((), generator=generator)) < _HELD:
            before = torch.full_like(before, first - 1)
        return {
            "portrait": pieces.portraits[piece, portrait].float(),
            "frames": pieces.frames[piece, frames].float(),
            "motion": pieces.frames[piece, before.clamp(min=0)].float(),
            "has_motion": torch.tensor(not is_first),
            "audio": pieces.audio[piece, around(window)].float().unfold(0, 2 * window + 1, 1),
            "speed": pieces.speeds[piece, around(fast)].unfold(0, 2 * fast + 1, 1),
            "region": self._region(piece, portrait, generator),
            "places": pieces.places[piece, frames],
        }

    def _region(self, piece: int, portrait: int, generator: torch.Generator) -> Tensor:
        """See draw_region()."""
        pieces, size = self.pieces, self.config.picture_size
        box = draw_region(
            pieces.faces[piece, portrait], pieces.boxes[piece], pieces.whole[piece], generator
        )
        mask = region_mask(box, size, size)
        return mask.expand(self.config.locator.in_channels, -1, -1)

    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the prediction, weighed up at mouths and eyes.

        Timesteps are drawn towards noise (u^0.8), where the conditions decide; of the single frames
        between clips only the noisiest three tenths, where the pose shows and the brows do not yet.
        """
        model, frames = self.model, batch["frames"]
        count, device = len(frames), frames.device
        uniform = torch.rand(count, generator=generator, device=device)
        if frames.shape[1] == 1 and self.name == "video":
            uniform = 1 - _PICTURE_NOISE * uniform
        timestep = (uniform**0.8 * NUM_TIMESTEPS).long().clamp(max=NUM_TIMESTEPS - 1)
        signal = self._signal.to(device)[timestep][:, None, None, None, None]
        level = self._noise.to(device)[timestep][:, None, None, None, None]
        noise = torch.randn(frames.shape, generator=generator, device=device)
        audio = rearrange(batch["audio"], "B F L D W -> B F W L D")
        speed = batch["speed"] if self.name in _SPEED_STAGES else None
        portrait = model.encode_portrait(batch["portrait"])
        motion = None if frames.shape[1] == 1 else self._motion(batch, generator)
        clip = model.prepare(portrait, motion, ClipInputs(audio, batch["region"], speed))
        audience = draw_audience(count, generator, device)
        noisy = signal * frames + level * noise
        predicted = model.denoising_unet(noisy, timestep, clip, audience).float()
        target = signal * noise - level * frames
        if self.config.sampling.prediction == "epsilon":
            target = noise
        weight = self._weight(batch["places"], frames.shape[-2:])
        error = (predicted - target).square()
        total = (weight * error).mean()
        mouth = closer_look(batch["places"][:, :, :1], frames.shape[-2:], _GAINS) > 2
        parts = {"error": error.mean(), "mouth": _late(error * mouth, timestep, mouth)}
        return total, parts

    def _weight(self, places: Tensor, size: torch.Size) -> Tensor:
        """Weights of latent cells, (B, F, 1, h, w)."""
        weight = closer_look(places, size, _GAINS)
        if self.recipe.brows == 0:
            return weight
        brows = (self.recipe.brows, self.recipe.brows)
        more = closer_look(with_brows(places), size, (*_GAINS, *brows))
        return more * (weight.mean() / more.mean())

    def _motion(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Features of the motion frames, zeros for first clips; no gradient flows to them."""
        motion = batch["motion"]
        level = torch.rand(len(motion), generator=generator, device=motion.device) * _MOTION_NOISE
        noise = torch.randn(motion.shape, generator=generator, device=motion.device)
        with torch.no_grad():
            features = self.model.encode_motion(motion + level[:, None, None, None, None] * noise)
        keep = batch["has_motion"].float()[:, None, None, None, None]
        return {name: tensor * keep.to(tensor.dtype) for name, tensor in features.items()}


def choose_trained(model: EMO, name: StageName) -> None:
    """Set which parameters a stage trains; stage 3 only temporal modules and speed layers.

    "speed-layers" goes on with the speed layers alone, so that films without a request stay what
    they are, to the bit.
    """
    for path, parameter in model.named_parameters():
        temporal = "motion_modules" in path or "temporal_positions" in path
        speed = "speed" in path
        if name == "images":
            parameter.requires_grad_(not temporal and not speed)
        elif name == "video":
            parameter.requires_grad_(not speed)
        elif name == "speed-layers":
            parameter.requires_grad_(speed)
        else:
            parameter.requires_grad_(temporal or speed)


def initialise(model: EMO, seed: int) -> None:
    """Give a model without pretrained weights its start.

    Attentions know distances from the start (RelativePositions); what a layer adds to its input
    starts full for the portrait, at a half for sound, at a tenth for time and at nothing for speed,
    in the order in which they should be learned.
    """
    torch.manual_seed(seed)
    scales = [(1.0, 2.0, 4.0, 100.0)[head % 4] for head in range(model.config.unet.num_heads)]
    # Children first: a table of positions would else forget its start by its own layer's reset.
    for module in reversed(list(model.modules())):
        if isinstance(module, RelativePositions):
            module.reset_parameters(tuple(scales))
        elif callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "temporal_transformer.proj_out" in path:
                parameter.mul_(0.1)
            elif "attn_audio.to_out" in path:
                parameter.mul_(0.5)
            elif "speed_attention.to_out" in path or path.startswith("denoising_unet.conv_out"):
                parameter.zero_()


def _late(error: Tensor, timestep: Tensor, where: Tensor) -> Tensor:
    """Mean error `where` it counts over samples that are nearly noise: what conditions decide.

    nan where the batch has no such sample.
    """
    late = (timestep > 0.7 * NUM_TIMESTEPS).float()[:, None, None, None, None]
    count = (late * where).sum() * error.shape[2]
    return (late * error).sum() / count
