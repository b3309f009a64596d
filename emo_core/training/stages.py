"""The stages of training: what each trains, on what, and by which loss."""

import copy
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..vae import AutoencoderKL
from .frames import FramePool, draw_frames
from .identities import FIRST_UNSEEN_SEED
from .places import closer_look, inside
from .stage import Batch, Stage

LATENT_NOISE = 0.1
POSTERIOR_VARIANCE = 0.01

# How much more the loss weighs the middle of a mouth and of the eyes, and the most where they meet.
_GAINS, _MOST_GAIN = (3.0, 1.5, 1.5), 3.0


class VAEStage(Stage):
    """Trains the autoencoder on puppets; with `train_encoder=False` only its decoder.

    The paper takes Stable Diffusion's VAE; the small world has none. Latents are normalised by the
    statistics of the batch in place of a KL term, which gives them unit variance by construction;
    `export` folds the statistics of many frames into `quant_conv`.
    """

    name = "vae"

    def __init__(
        self, vae: AutoencoderKL, pool: FramePool, batch_size: int = 24, train_encoder: bool = True
    ) -> None:
        """Prepare the stage.

        Args:
            vae: trained in place. With `train_encoder=False` one that `export` returned.
            pool: where frames come from.
            batch_size: frames a step.
            train_encoder: False to freeze the encoder and its latents.
        """
        self.vae, self.pool, self.batch_size = vae, pool, batch_size
        self.train_encoder = train_encoder
        self.modules = nn.ModuleDict({"vae": vae})
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(train_encoder)
        if not train_encoder:
            self.name = "vae-decoder"
        unseen = draw_frames(FIRST_UNSEEN_SEED, 128)
        self._unseen = {"pictures": unseen.pictures, "places": unseen.places}

    def batch(self, draw: int) -> Batch:
        """Draw pictures (N, 3, H, W) uint8 and places (N, 3, 3)."""
        frames = self.pool.batch(draw, self.batch_size)
        return {"pictures": frames.pictures, "places": frames.places}

    def loss(
        self, batch: Batch, generator: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted L1 + 2 MSE, L1 of the pictures' gradients and of the tint of 8x8 areas."""
        pictures = _to_float(batch["pictures"])
        latents = self.encode(pictures)
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        decoded = self.vae.decode(latents + LATENT_NOISE * noise).float()
        weight = closer_look(batch["places"], pictures.shape[-2:], _GAINS, _MOST_GAIN)
        error = decoded - pictures
        absolute = (weight * error.abs()).mean()
        square = (weight * error.square()).mean()
        edges = (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean() + (
            weight[..., 1:] * error.diff(dim=-1).abs()
        ).mean()
        # Shapes teach themselves; colours of whole areas do not: without this term hair and skin of
        # rare colours came out in common ones for the first thousands of steps.
        areas = functional.avg_pool2d(error, 8)
        tint = areas.abs().mean() + 3 * (areas - areas.mean(1, keepdim=True)).abs().mean()
        total = absolute + 2 * square + 0.5 * edges + tint
        return total, {"l1": absolute, "mse": square, "edges": edges, "tint": tint}

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode to latents of zero mean and unit variance: (N, 3, H, W) -> (N, z, h, w) float."""
        if not self.train_encoder:
            with torch.no_grad():
                return self.vae.encode(pictures).float()
        latents = self.vae.encode(pictures).float()
        variance, mean = torch.var_mean(latents, (0, 2, 3), keepdim=True, correction=0)
        return (latents - mean) * (variance + 1e-6).rsqrt()

    def measure(self) -> dict[str, float]:
        """PSNR in dB on 128 frames of unseen identities: everywhere, at mouths and at eyes."""
        device = next(self.vae.parameters()).device
        unseen = {name: tensor.to(device) for name, tensor in self._unseen.items()}
        pictures = _to_float(unseen["pictures"])
        error = (self._round_trip(pictures) - pictures).square() / 4
        mouth = inside(unseen["places"][:, :1], pictures.shape[-2:])
        eyes = inside(unseen["places"][:, 1:], pictures.shape[-2:])
        return {
            "psnr": _decibel(error.mean()),
            "psnr_mouth": _decibel((error * mouth).sum() / (3 * mouth.sum())),
            "psnr_eyes": _decibel((error * eyes).sum() / (3 * eyes.sum())),
        }

    def sample_sheet(self, path: Path) -> None:
        """Write 2 x 12 unseen frames, originals above reconstructions."""
        device = next(self.vae.parameters()).device
        pictures = _to_float(self._unseen["pictures"].to(device))
        decoded = self._round_trip(pictures)
        rows = [t[start : start + 12] for start in (0, 12) for t in (pictures, decoded)]
        write_png(path, torch.cat([torch.cat(list(row), 2) for row in rows], 1) / 2 + 0.5)

    def export(self, num_frames: int = 1024) -> AutoencoderKL:
        """Fold the latents' mean and deviation over `num_frames` trained frames into the weights.

        Returns:
            A float32 copy whose `encode` gives latents of unit variance at scaling factor 1.
        """
        vae = copy.deepcopy(self.vae).float().eval()
        if self.train_encoder:
            device = next(vae.parameters()).device
            draws = range(math.ceil(num_frames / self.batch_size))
            with torch.no_grad():
                latents = torch.cat(
                    [vae.encode(_to_float(self.batch(d)["pictures"].to(device))) for d in draws]
                )
            fold_latent_statistics(vae, latents)
        return vae

    def _round_trip(self, pictures: Tensor) -> Tensor:
        """Pictures through the autoencoder, in -1..1."""
        with torch.autocast(pictures.device.type, torch.bfloat16):
            if self.train_encoder:  # one batch, whose statistics normalise
                decoded = [self.vae.decode(part) for part in torch.split(self.encode(pictures), 32)]
            else:
                latents = [self.encode(part) for part in torch.split(pictures, 32)]
                decoded = [self.vae.decode(part) for part in latents]
        return torch.cat(decoded).float().clamp(-1, 1)


@torch.no_grad()
def fold_latent_statistics(vae: AutoencoderKL, latents: Tensor) -> None:
    """Change `quant_conv` so that latents distributed like these come out with unit variance.

    The rows of the log-variance become a constant, since nothing here samples the posterior.

    Args:
        vae: changed in place; its scaling factor must be 1.
        latents: (N, z, h, w), of `vae.encode`.

    Raises:
        ValueError: if the scaling factor is not 1.
    """
    if vae.config.scaling_factor != 1.0:
        raise ValueError(
            f"statistics fold only into a VAE of scaling factor 1, got {vae.config.scaling_factor}"
        )
    z = vae.config.z_channels
    variance, mean = torch.var_mean(latents.double(), (0, 2, 3), correction=0)
    inverse = variance.rsqrt()
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    bias[:z] = (bias[:z] - mean) * inverse
    weight[:z] = weight[:z] * inverse[:, None, None, None]
    weight[z:] = 0
    bias[z:] = math.log(POSTERIOR_VARIANCE)


def write_png(path: Path, picture: Tensor) -> None:
    """Write a (3, H, W) picture in 0..1; for machines without an imaging library."""
    levels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy()
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    size = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def _to_float(pictures: Tensor) -> Tensor:
    """Bytes to -1..1, in the layout in which convolutions are fast."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _decibel(error: Tensor) -> float:
    return float(-10 * torch.log10(error.detach()))
