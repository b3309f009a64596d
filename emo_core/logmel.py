"""A small convolutional audio encoder on a log-mel spectrum, in wav2vec's place.

Its four blocks play the part of wav2vec's layers. A row depends on less than 0.4 s of sound on
either side, so the grid of windows gives exactly what the whole file would.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .audio import AudioEncoder, Resample
from .waveform import SAMPLE_RATE

NUM_BANDS = 64
_FFT, _SPAN, _HOP = 512, 400, 160
_LOWEST, _HIGHEST = 50.0, 7600.0
_FLOOR = 1e-7


@lru_cache(maxsize=1)
def mel_filterbank() -> Tensor:
    """Triangles on the mel scale of HTK, m = 2595 log10(1 + f / 700), peak 1: (64, 257)."""

    def mel(frequency: float) -> float:
        return 2595 * math.log10(1 + frequency / 700)

    points = torch.linspace(mel(_LOWEST), mel(_HIGHEST), NUM_BANDS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (points / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, _FFT // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def log_mel(waveform: Tensor) -> Tensor:
    """Log-mel spectrum at 100 Hz; column j is centred on sample 160 j.

    Args:
        waveform: (B, T) at 16 kHz.

    Returns:
        (B, 64, 1 + T // 160) float32, about -2.5 (silence) to 2 (loud).
    """
    shape = torch.hann_window(_SPAN, device=waveform.device)
    spectrum = torch.stft(
        waveform.float(), _FFT, _HOP, _SPAN, shape, pad_mode="constant", return_complex=True
    )
    power = spectrum.abs().square() / shape.square().sum()
    mel = mel_filterbank().to(waveform.device) @ power
    return (torch.log(mel + _FLOOR) + 6) / 4


class _Block(nn.Module):
    """Residual block: norm over channels, dilated convolution over time, GELU, pointwise."""

    def __init__(self, width: int, dilation: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(width, **place)
        self.conv = operations.Conv1d(
            width, width, 5, padding=2 * dilation, dilation=dilation, **place
        )
        self.proj = operations.Conv1d(width, width, 1, **place)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, R) to (B, C, R)."""
        normed = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        out: Tensor = hidden + self.proj(nn.functional.gelu(self.conv(normed)))
        return out


class LogMelEncoder(AudioEncoder):
    """64-band log-mel, two convolutions to 50 Hz, residual blocks whose outputs are the layers.

    Args:
        width: channels.
        dilations: one block for each.
        operations: namespace of the leaf layers.
        dtype: of the parameters.
        device: of the parameters.
    """

    alignment = "after"
    normalise = False

    def __init__(
        self,
        width: int,
        dilations: tuple[int, ...],
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.width, self.num_layers = width, len(dilations)
        self.description = f"logmel-{self.num_layers}x{width}"
        self.conv_in = operations.Conv1d(NUM_BANDS, width, 5, padding=2, **place)
        self.conv_down = operations.Conv1d(width, width, 5, stride=2, padding=2, **place)
        self.blocks = nn.ModuleList(_Block(width, d, operations, place) for d in dilations)

    def encode_mel(self, mel: Tensor, resample: Resample) -> Tensor:
        """From a log-mel spectrum (B, 64, columns) on; the trainer disturbs spectra."""
        hidden = nn.functional.gelu(self.conv_in(mel))
        hidden = nn.functional.gelu(self.conv_down(hidden))
        layers = []
        for block in self.blocks:
            hidden = block(hidden)
            layers.append(resample(hidden.transpose(1, 2)))
        return torch.stack(layers, dim=2)

    def forward(self, waveform: Tensor, resample: Resample) -> Tensor:
        """See AudioEncoder: (B, T) to (B, F, L, D)."""
        return self.encode_mel(log_mel(waveform).to(waveform.dtype), resample)
