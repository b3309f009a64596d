"""Soft-edged drawing on a batch of pictures: windows, affine frames and signed distances.

All distances are in the units of the local frame, y pointing down. A window is the smallest
rectangle that holds a shape in every picture of the batch, so that small shapes cost little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EDGE_PIXELS = 1.25
"""Width of an antialiased edge in pixels."""


@dataclass(frozen=True)
class Affine:
    """Maps local points to the picture, one map a row: `p = origin + matrix @ local`.

    Attributes:
        x: Picture x of the local origin, (B,), in 0..1.
        y: Picture y of the local origin, (B,), in 0..1.
        matrix: (B, 2, 2).
    """

    x: Tensor
    y: Tensor
    matrix: Tensor

    def child(self, x: Tensor, y: Tensor, matrix: Tensor | None = None) -> Affine:
        """Place a frame inside this one.

        Args:
            x: Local x of the child's origin, (B,).
            y: Local y of the child's origin, (B,).
            matrix: The child's own matrix, (B, 2, 2); identity if None.

        Returns:
            The child's map to the picture.
        """
        own = self.matrix
        return Affine(
            self.x + own[:, 0, 0] * x + own[:, 0, 1] * y,
            self.y + own[:, 1, 0] * x + own[:, 1, 1] * y,
            own if matrix is None else own @ matrix,
        )

    def unit(self) -> Tensor:
        """Length of a local unit as a fraction of the picture side, (B,)."""
        m = self.matrix
        return (m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]).abs().sqrt()


class Patch:
    """A window of some pictures of a canvas, with local coordinates.

    Attributes:
        u: Local x of every pixel, (n, h, w).
        v: Local y of every pixel, (n, h, w).
    """

    def __init__(
        self, canvas: Canvas, frame: Affine, rows: Sequence[int] | None, reach: Tensor | None
    ) -> None:
        """Cut the window.

        Args:
            canvas: The pictures.
            frame: Local frame of every picture of the canvas.
            rows: Pictures to draw on; None for all.
            reach: Half sides of the window in local units, (B, 4) as left, top, right, bottom
                around the origin; None for the whole picture.
        """
        device = canvas.pixels.device
        self._rows = None if rows is None else torch.tensor(rows, device=device)
        size = canvas.size
        x0, y0, x1, y1 = 0, 0, size, size
        if reach is not None and device.type == "cpu":
            x0, y0, x1, y1 = _window(frame, reach, self._rows, size)
        self._view = canvas.pixels[:, :, y0:y1, x0:x1]
        self._own = self._view if self._rows is None else self._view[self._rows]
        matrix = self.pick(frame.matrix)
        det = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
        dx = canvas.axis[None, None, x0:x1] - self.column(frame.x)
        dy = canvas.axis[None, y0:y1, None] - self.column(frame.y)
        inverse = [
            (matrix[:, i, j] / det)[:, None, None] for i, j in ((1, 1), (0, 1), (1, 0), (0, 0))
        ]
        self.u = inverse[0] * dx - inverse[1] * dy
        self.v = inverse[3] * dy - inverse[2] * dx
        self._sharp = (det.abs().sqrt() * (size / EDGE_PIXELS))[:, None, None]

    def pick(self, values: Tensor) -> Tensor:
        """Rows of a per-picture tensor that this window draws on, (n, ...)."""
        return values if self._rows is None else values[self._rows]

    def column(self, values: Tensor) -> Tensor:
        """Per-picture numbers (B,) shaped for the window, (n, 1, 1)."""
        return self.pick(values)[:, None, None]

    def cover(self, distance: Tensor) -> Tensor:
        """Antialiased coverage 0..1 of a signed distance in local units, (n, h, w)."""
        return (distance * -self._sharp).add_(0.5).clamp_(0.0, 1.0)

    def paint(self, mask: Tensor, color: Tensor, amount: Tensor | float = 1.0) -> None:
        """Blend one colour a picture, (B, 3), over the window where the mask is 1."""
        self.blend(mask, self.pick(color)[:, :, None, None], amount)

    def blend(self, mask: Tensor, colors: Tensor, amount: Tensor | float = 1.0) -> None:
        """Blend colours (n, 3, h, w) over the window where the mask (n, h, w) is 1."""
        if isinstance(amount, Tensor):
            mask = mask * self.column(amount)
        elif amount != 1.0:
            mask = mask * amount
        if self._own.numel():
            self._own.lerp_(colors, mask[:, None])

    def finish(self) -> None:
        """Write the window back to the canvas."""
        if self._rows is not None:
            self._view[self._rows] = self._own


class Canvas:
    """A batch of pictures to draw on.

    Attributes:
        pixels: (B, 3, size, size), 0..1.
        size: Side in pixels.
        axis: Centres of the pixels, (size,), 0..1.
    """

    def __init__(self, batch: int, size: int, device: torch.device) -> None:
        """Make `batch` black pictures of `size` pixels."""
        self.pixels = torch.zeros(batch, 3, size, size, device=device)
        self.size = size
        self.axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size

    def patch(
        self,
        frame: Affine,
        reach: Tensor | float | tuple[float, float, float, float] | None = None,
        rows: Sequence[int] | None = None,
    ) -> Patch:
        """Open a window; see `Patch`. A number for `reach` means the same in four directions."""
        if reach is None or isinstance(reach, Tensor):
            return Patch(self, frame, rows, reach)
        sides = reach if isinstance(reach, tuple) else (reach,) * 4
        return Patch(self, frame, rows, frame.x.new_tensor([sides]).expand(len(frame.x), 4))


def ellipse(u: Tensor, v: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Signed distance to an ellipse, first order, exact on its outline.

    Args:
        u: Local x, (n, h, w).
        v: Local y, (n, h, w).
        rx: Half width; broadcasts.
        ry: Half height; broadcasts.

    Returns:
        (n, h, w), negative inside.
    """
    return squircle(u, v, rx, ry, 0.0)


def squircle(
    u: Tensor, v: Tensor, rx: Tensor | float, ry: Tensor | float, square: Tensor | float
) -> Tensor:
    """Signed distance to an ellipse blown towards its bounding box.

    Args:
        u: Local x, (n, h, w).
        v: Local y, (n, h, w).
        rx: Half width; broadcasts.
        ry: Half height; broadcasts.
        square: 0 for an ellipse, towards 1 for a rectangle.

    Returns:
        (n, h, w), negative inside.
    """
    a, b = u / rx, v / ry
    slope = torch.hypot(a / rx, b / ry).add_(1e-4)
    a, b = a.square_(), b.square_()
    level = a + b
    if isinstance(square, Tensor) or square != 0.0:
        level = level - square * a.clamp(max=1.0).mul_(b.clamp(max=1.0))
    level = level.clamp_(min=0.0).sqrt_()
    return (level - 1.0).mul_(level.clamp_(max=2.0)).div_(slope)


def box(
    u: Tensor, v: Tensor, rx: Tensor | float, ry: Tensor | float, corner: Tensor | float
) -> Tensor:
    """Signed distance to a rectangle with round corners of radius `corner`, (n, h, w)."""
    a, b = u.abs() - (rx - corner), v.abs() - (ry - corner)
    outside = torch.hypot(a.clamp(min=0.0), b.clamp(min=0.0))
    return outside.add_(torch.maximum(a, b).clamp_(max=0.0)).sub_(corner)


def smooth(value: Tensor) -> Tensor:
    """Smoothstep of a value clamped to 0..1."""
    value = value.clamp(0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def _window(
    frame: Affine, reach: Tensor, rows: Tensor | None, size: int
) -> tuple[int, int, int, int]:
    """Pixel rectangle that holds `reach` around the origin in every row."""
    matrix, x, y = frame.matrix, frame.x, frame.y
    if rows is not None:
        matrix, x, y, reach = matrix[rows], x[rows], y[rows], reach[rows]
    left, top, right, bottom = reach.unbind(1)
    u = torch.stack([-left, right, -left, right], 1)
    v = torch.stack([-top, -top, bottom, bottom], 1)
    px = x[:, None] + matrix[:, 0, 0, None] * u + matrix[:, 0, 1, None] * v
    py = y[:, None] + matrix[:, 1, 0, None] * u + matrix[:, 1, 1, None] * v
    limits = []
    for p in (px, py):
        low = math.floor(float(p.min()) * size) - 2
        high = math.ceil(float(p.max()) * size) + 2
        low = min(max(low, 0), size)
        limits.append((low, min(max(high, low), size)))
    return limits[0][0], limits[1][0], limits[0][1], limits[1][1]
