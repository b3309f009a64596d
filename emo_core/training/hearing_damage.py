"""Disturbances of sound in training, so that voices never heard sound like ones that were."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..waveform import SAMPLE_RATE

_CURVE_POINTS = 10  # knots of a random equaliser, 0 to 8 kHz


@dataclass(frozen=True)
class Damage:
    """What happens to each sound of a batch; all (B,) but `curve_db`.

    Attributes:
        pace: how much faster, higher and smaller the speaker becomes (0.84 to 1.19).
        gain_db: louder (-16 to 10 dB).
        curve_db: (B, 10) gain at equal steps from 0 to 8 kHz.
        noise_db: level of noise against full scale.
        tint: 0 white noise to 1 brownish.
        echo_seconds: time in which the room's echo falls by 60 dB; 0 is no room.
    """

    pace: Tensor
    gain_db: Tensor
    curve_db: Tensor
    noise_db: Tensor
    tint: Tensor
    echo_seconds: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Damage:
        """Draw disturbances for a batch of `count` sounds."""

        def uniform(low: float, high: float, *more: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *more, generator=generator)

        tilt = uniform(-9, 9, 1) * torch.linspace(-1, 1, _CURVE_POINTS)
        wiggle = torch.randn(count, _CURVE_POINTS, generator=generator) * uniform(0, 6, 1)
        echo = uniform(0.1, 0.5) * (uniform(0, 1) < 0.3)
        return cls(
            pace=torch.exp(uniform(-0.175, 0.175)),
            gain_db=uniform(-16, 10),
            curve_db=tilt + wiggle,
            noise_db=uniform(-90, -35),
            tint=uniform(0, 1),
            echo_seconds=echo,
        )


def damage_sound(sound: Tensor, damage: Damage, generator: torch.Generator) -> Tensor:
    """Equalise, put into a room, set the level and add noise; `pace` is the caller's.

    Args:
        sound: (B, T) at 16 kHz.
        damage: one for each sound.
        generator: of noise and rooms.

    Returns:
        (B, T), within -1..1.
    """
    length = sound.shape[1]
    size = length + 8000
    bins = size // 2 + 1
    curve = nn.functional.interpolate(
        damage.curve_db[:, None], size=bins, mode="linear", align_corners=True
    )[:, 0]
    response = torch.pow(10.0, curve / 20) * _room(damage.echo_seconds, size, generator)
    heard = torch.fft.irfft(torch.fft.rfft(sound, size) * response, size)[:, :length]
    loudness = sound.square().mean(1) / heard.square().mean(1).clamp(min=1e-12)
    heard = heard * (loudness.sqrt() * torch.pow(10.0, damage.gain_db / 20))[:, None]
    noisy: Tensor = heard + _noise(damage, length, generator)
    return noisy.clamp(-1, 1)


def _room(seconds: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Frequency response of a room: the direct sound and an exponentially fading noise."""
    time = torch.arange(8000) / SAMPLE_RATE
    tail = torch.randn(seconds.shape[0], 8000, generator=generator) * 0.02
    tail = tail * torch.exp(-6.9 * time / seconds.clamp(min=1e-3)[:, None])
    tail = tail * (seconds > 0)[:, None]
    tail[:, 0] = 1
    response: Tensor = torch.fft.rfft(tail, size)
    return response


def _noise(damage: Damage, length: int, generator: torch.Generator) -> Tensor:
    """Noise between white and brownish at the level asked for, (B, length)."""
    white = torch.randn(damage.tint.shape[0], length, generator=generator)
    smooth: Tensor = nn.functional.avg_pool1d(white, 9, 1, 4) * 3
    noise = torch.lerp(white, smooth, damage.tint[:, None])
    level: Tensor = torch.pow(10.0, damage.noise_db / 20)[:, None]
    return noise * level


def warp_bands(mel: Tensor, warp: Tensor) -> Tensor:
    """Stretch spectra along the mel axis, as a longer or shorter vocal tract would.

    Args:
        mel: (B, bands, columns).
        warp: (B,), about 1.
    """
    bands = mel.shape[1]
    place = (torch.arange(bands) * warp[:, None]).clamp(0, bands - 1)
    below = place.floor().long().clamp(max=bands - 2)
    low = torch.take_along_dim(mel, below[..., None], 1)
    high = torch.take_along_dim(mel, below[..., None] + 1, 1)
    return torch.lerp(low, high, (place - below)[..., None])
