"""Drawing of hair and hats."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .drawing import box, ellipse
from .heads import face_plane
from .identities import HAIR
from .scene import Scene

_FRONT = {
    "short": (-0.62, 0.16, 0.55),
    "parted": (-0.56, 0.10, 0.60),
    "bob": (-0.52, 0.05, 1.05),
    "long": (-0.60, 0.25, 0.95),
    "afro": (-0.56, 0.05, 0.50),
    "bun": (-0.64, 0.22, 0.50),
    "fringe": (-0.40, -0.04, 0.75),
    "pigtails": (-0.58, 0.20, 0.60),
    "quiff": (-0.64, 0.08, 0.60),
}
"""Hairline: height in the middle, and how it falls with x squared and x to the sixth."""
_BACK = {
    "bob": (-0.12, 0.20, 0.96, 0.62),
    "long": (0.22, 0.20, 1.32, 0.72),
    "afro": (-0.30, 0.40, 0.98, 0.98),
    "fringe": (-0.30, 0.13, 0.80, 0.70),
}
"""Hair behind the head: middle y, width beyond the face, half height, corner."""
_TUFTS = {
    "bun": (0.0, -1.20, 0.34, 0.30),
    "pigtails": (1.02, 0.12, 0.24, 0.46),
    "quiff": (0.22, -1.02, 0.62, 0.32),
}
"""Tufts of hair: x, y, half width, half height; mirrored."""


def draw_back_hair(scene: Scene) -> None:
    """Paint the hair behind the head."""
    values, pose = scene.values, scene.pose
    dark = values["hair_color"] * 0.80
    bob = ("bob", "long", "afro", "fringe")
    rows = scene.where("hair", *(HAIR.index(n) for n in bob))
    shift = pose.sin_yaw * -0.12
    if rows:
        shape = [_table(scene, _BACK, i) for i in range(4)]
        place = pose.head.child(shift, shape[0] - 0.10 * pose.sin_pitch)
        reach = torch.stack([shape[1] + values["face_width"] + 0.2, shape[2] + 0.2] * 2, 1)
        patch = scene.canvas.patch(place, reach, rows)
        width = patch.column(values["face_width"] + shape[1] + values["volume"])
        u = patch.u * (1.0 - 0.06 * patch.v)
        distance = box(u, patch.v, width, patch.column(shape[2]), patch.column(shape[3]))
        light = 1.06 - 0.20 * patch.v / patch.column(shape[2])
        patch.blend(patch.cover(distance), patch.pick(dark)[:, :, None, None] * light[:, None])
        patch.finish()
    rows = scene.where("hair", *(HAIR.index(n) for n in _TUFTS))
    if rows:
        shape = [_table(scene, _TUFTS, i) for i in range(4)]
        for side in (-1.0, 1.0):
            place = pose.head.child(shape[0] * side + shift, shape[1] + 0.10 * pose.sin_pitch)
            reach = torch.stack([shape[2], shape[3]] * 2, 1) + 0.1
            patch = scene.canvas.patch(place, reach, rows)
            distance = ellipse(patch.u, patch.v, patch.column(shape[2]), patch.column(shape[3]))
            light = 1.10 - 0.20 * patch.v / patch.column(shape[3])
            patch.blend(patch.cover(distance), patch.pick(dark)[:, :, None, None] * light[:, None])
            patch.finish()


def draw_front_hair(scene: Scene) -> None:
    """Paint the hair over the forehead and temples."""
    values, pose = scene.values, scene.pose
    rows = scene.where("hair", *range(1, len(HAIR)))
    if not rows:
        return
    patch = scene.canvas.patch(pose.head, (1.15, 1.35, 1.15, 0.8), rows)
    u, v = face_plane(scene, patch)
    width = patch.column(values["face_width"])
    grow = patch.column(0.07 + values["volume"])
    dome = ellipse(u, v, width + grow * 0.8, 1.0 + grow)
    line = [patch.column(_table(scene, _FRONT, i)) for i in range(3)]
    a = (u - patch.column(0.42 * pose.sin_yaw)) / width
    square = a * a
    part = a - 0.3 * patch.column(values["part"].sign())
    wave = patch.column(_flag(scene, "hair", "parted")) * (0.45 * part.abs() - 0.22)
    hairline = line[0] + line[1] * square + line[2] * square * square * square - wave
    hairline = hairline - patch.column(0.55 * pose.sin_pitch)
    distance = torch.maximum(dome, (patch.v - hairline) * 0.8)
    side = patch.column(values["light"] * 0.12)
    light = 1.06 + side * a - 0.24 * (v + 0.72) ** 2 - 0.10 * square
    color = patch.pick(values["hair_color"])[:, :, None, None] * light[:, None]
    patch.blend(patch.cover(distance), color.clamp_(0, 1))
    patch.finish()


def draw_hat(scene: Scene) -> None:
    """Paint a beanie, a hat with a brim, or a cap."""
    values, pose = scene.values, scene.pose
    color, trim = values["hat_color"], values["hat_color"] * 0.70
    nod = -0.50 * pose.sin_pitch
    for kind in (1, 2, 3):
        rows = scene.where("hat", kind)
        if not rows:
            continue
        place = pose.head.child(0.10 * pose.sin_yaw, -0.62 + nod)
        patch = scene.canvas.patch(place, (1.5, 1.1, 1.5, 0.35), rows)
        u, v = patch.u, patch.v
        wide = patch.column(values["face_width"])
        light = (1.06 + patch.column(values["light"] * 0.12) * u - 0.12 * u * u)[:, None]
        body = patch.pick(color)[:, :, None, None] * light
        if kind == 2:
            crown = box(u * (1 - 0.12 * v), v + 0.36, wide * 0.80, 0.36, 0.16)
            patch.blend(patch.cover(crown), body)
            patch.paint(patch.cover(crown) * patch.cover((v + 0.10).abs() - 0.09), trim)
            brim = ellipse(u, v - 0.05 * u * u - 0.02, wide + 0.42, 0.12)
            patch.blend(patch.cover(brim), body)
        else:
            dome = torch.maximum(ellipse(u, v - 0.12, wide + 0.12, 0.72), v - 0.05)
            patch.blend(patch.cover(dome), body)
            if kind == 1:
                patch.paint(patch.cover(ellipse(u, v + 0.66, 0.17, 0.17)), trim)
                patch.paint(patch.cover(box(u, v + 0.02, wide + 0.15, 0.13, 0.12)), trim)
            else:
                shift = patch.column(0.55 * pose.sin_yaw)
                visor = ellipse(u - shift, v + 0.10 * (u - shift) ** 2, wide * 0.80, 0.15)
                patch.paint(patch.cover(visor), trim)
        patch.finish()


def _table(scene: Scene, table: Mapping[str, tuple[float, ...]], column: int) -> Tensor:
    """Look up a number of every picture's hair style, (B,); 0.1 where the style is not listed."""
    numbers = [
        table[style][column] if style in table else 0.1
        for style in (HAIR[int(who.values["hair"][0])] for who in scene.people)
    ]
    return scene.pose.sin_yaw.new_tensor(numbers)


def _flag(scene: Scene, name: str, kind: str) -> Tensor:
    """1 where the hair style is `kind`, (B,)."""
    return (scene.values[name] == float(HAIR.index(kind))).float()
