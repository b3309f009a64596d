"""Drawing of what surrounds the features: backdrop, body, head and ears."""

from __future__ import annotations

import torch
from torch import Tensor

from .drawing import Affine, Patch, box, ellipse, smooth, squircle
from .scene import CHIN_DROP, Scene


def draw_backdrop(scene: Scene) -> None:
    """Paint the gradient and the simple shape behind the puppet."""
    canvas, values = scene.canvas, scene.values
    batch = len(scene.people)
    middle = scene.constant(0.5)
    whole = Affine(middle, middle, scene.pose.body.matrix * 0 + _eye(scene))
    ramp = canvas.axis.view(1, 1, -1, 1)
    top, low = (values[n].view(batch, 3, 1, 1) for n in ("backdrop", "backdrop_low"))
    canvas.pixels.copy_((top + (low - top) * ramp).expand_as(canvas.pixels))
    shade = values["backdrop"] * 0.88 + 0.10
    for kind in (1, 2, 3):
        rows = scene.where("scenery", kind)
        if not rows:
            continue
        patch = canvas.patch(whole, rows=rows)
        side = patch.column(values["backdrop_x"])
        if kind == 1:
            distance = ellipse(patch.u - 0.28 * side, patch.v + 0.10, 0.36, 0.36)
        elif kind == 2:
            distance = (patch.u * 0.8 + patch.v * 0.6 * side.sign() + 0.05).abs() - 0.16
        else:
            distance = ellipse(patch.u - 0.3 * side, patch.v - 0.62, 0.85, 0.52)
        patch.paint(patch.cover(distance), shade)
        patch.finish()


def draw_body(scene: Scene) -> None:
    """Paint neck, shoulders and clothes; they stay where they are, the neck follows the head."""
    values, pose = scene.values, scene.pose
    skin = values["skin"]
    patch = scene.canvas.patch(pose.body, (1.9, -0.2, 1.9, 3.2))
    lean = (pose.head.x - pose.body.x) / pose.body.matrix[:, 0, 0]
    bend = smooth((1.55 - patch.v) * 1.4) * patch.column(lean)
    neck = patch.column(values["neck"])
    flare = smooth((patch.v - 1.15) * 2.0) * 0.10
    column = box(patch.u - bend, patch.v - 0.9, neck + flare, 0.85, 0.1)
    patch.paint(patch.cover(column), skin * 0.86)
    shadow = smooth((1.32 + 0.12 * patch.column(scene.controls["open"]) - patch.v) * 4.0)
    inside = patch.cover((patch.u - bend).abs() - neck - flare)
    patch.paint(inside * shadow * (patch.v > 0.1), skin * 0.62, 0.75)
    _draw_clothes(scene, patch, neck)
    patch.finish()


def draw_ears(scene: Scene) -> None:
    """Paint ears, a cat's ears, or a robot's bolts and antenna."""
    values, pose = scene.values, scene.pose
    skin = values["skin"]
    people, cats = scene.where("species", 0, 3), scene.where("species", 1)
    for side in (-1.0, 1.0):
        x = side * (values["face_width"] - 0.02) * pose.cos_yaw - 0.10 * pose.sin_yaw
        place = pose.head.child(x, 0.02 + 0.10 * pose.sin_pitch)
        if people:
            patch = scene.canvas.patch(place, 0.4, people)
            ear = patch.column(values["ear"])
            shell = patch.cover(ellipse(patch.u, patch.v, ear, ear * 1.35))
            patch.paint(shell, skin * 0.93)
            inner = ellipse(patch.u - side * 0.02, patch.v, ear * 0.55, ear * 0.85)
            patch.paint(patch.cover(inner), skin * 0.74)
            patch.finish()
        if cats:
            x = side * 0.56 - 0.12 * pose.sin_yaw
            place = pose.head.child(x, -0.80 + 0.12 * pose.sin_pitch)
            patch = scene.canvas.patch(place, 0.65, cats)
            rosy = skin * 0.4 + scene.color(0.55, 0.3, 0.32)
            for grow, color in ((0.0, skin * 0.92), (0.15, rosy)):
                lean = patch.u - side * 0.10 + side * 0.22 * patch.v
                height = patch.v + 0.42 - grow * 1.6
                distance = torch.maximum(lean.abs() * 0.88 - height * 0.44, patch.v - 0.5)
                patch.paint(patch.cover(distance), color)
            patch.finish()
    _draw_robot_parts(scene)


def draw_head(scene: Scene) -> None:
    """Paint the face with its shading, blush, freckles and a cat's muzzle."""
    values, pose = scene.values, scene.pose
    width = values["face_width"]
    reach = torch.stack([width + 0.2, width * 0 + 1.15, width + 0.2, width * 0 + 1.35], 1)
    patch = scene.canvas.patch(pose.head, reach)
    u, v = face_plane(scene, patch)
    face = patch.cover(squircle(u, v, patch.column(width), 1.0, patch.column(values["square"])))
    a = u / patch.column(width)
    radius = a * a + v * v
    tilt = patch.column(values["light"] * 0.13 - 0.10 * pose.sin_yaw)
    light = 1.03 + a * tilt - 0.05 * v - 0.16 * radius * radius
    patch.blend(face, (patch.pick(values["skin"])[:, :, None, None] * light[:, None]).clamp_(0, 1))
    patch.finish()
    _draw_cheeks(scene)
    _draw_muzzle(scene)


def face_plane(scene: Scene, patch: Patch, grow: float = 0.0) -> tuple[Tensor, Tensor]:
    """Coordinates in which the face outline is a squircle of half height 1.

    Args:
        scene: The scene.
        patch: A window in the frame of the head.
        grow: Widening of the outline in head units.

    Returns:
        u and v, (n, h, w): the jaw is narrowed, the lower half follows the chin and the pitch.
    """
    pose = scene.pose
    lower = 1.0 + CHIN_DROP * scene.controls["open"] - 0.30 * pose.sin_pitch + grow
    upper = 1.0 + 0.16 * pose.sin_pitch + grow
    v = torch.where(patch.v > 0, patch.v / patch.column(lower), patch.v / patch.column(upper))
    down = v.clamp(min=0.0)
    u = patch.u - patch.column(0.20 * pose.sin_yaw) * down
    return u * (1.0 + patch.column(scene.values["jaw"]) * down * down), v


def _draw_clothes(scene: Scene, patch: Patch, neck: Tensor) -> None:
    """Paint the torso in one of three kinds of clothes, with a neckline."""
    values = scene.values
    torso = squircle(patch.u, patch.v - 2.45, 1.28, 1.22, 0.45)
    kind = patch.column(values["outfit"])
    crew = ellipse(patch.u, patch.v - 1.22, neck + 0.14, 0.20)
    vee = patch.u.abs() * 0.75 + (patch.v - 1.24) * 0.6 - neck * 0.75 - 0.08
    hole = torch.where(kind == 1.0, vee, crew)
    patch.paint(patch.cover(torch.maximum(torso, hole - 0.02)), values["skin"] * 0.86)
    light = 1.02 + 0.14 * patch.u * patch.column(values["light"]) - 0.10 * (patch.v - 1.6)
    cloth = patch.cover(torch.maximum(torso, -hole))
    color = patch.pick(values["clothes"])[:, :, None, None] * light[:, None]
    patch.blend(cloth, color.clamp_(0, 1))
    patch.paint(cloth * patch.cover(hole - torch.where(kind == 2.0, 0.16, 0.07)), values["accent"])
    placket = torch.maximum(patch.u.abs() - 0.05, 1.5 - patch.v)
    patch.paint(cloth * patch.cover(placket) * (kind == 2.0), values["accent"])


def _draw_robot_parts(scene: Scene) -> None:
    """Paint bolts and an antenna behind a robot's head."""
    rows = scene.where("species", 2)
    if not rows:
        return
    values, pose = scene.values, scene.pose
    dark = values["skin"] * 0.62
    place = pose.head.child(-0.14 * pose.sin_yaw, 0.12 * pose.sin_pitch)
    patch = scene.canvas.patch(place, (1.3, 1.5, 1.3, 0.4), rows)
    edge = patch.column(values["face_width"])
    bolt = box(patch.u.abs() - edge, patch.v, 0.14, 0.24, 0.06)
    patch.paint(patch.cover(bolt), dark)
    patch.paint(patch.cover(box(patch.u, patch.v + 1.05, 0.045, 0.22, 0.02)), dark)
    patch.paint(patch.cover(ellipse(patch.u, patch.v + 1.27, 0.11, 0.11)), values["iris"])
    patch.finish()


def _draw_cheeks(scene: Scene) -> None:
    """Paint blush and, on some, freckles."""
    values = scene.values
    rosy = values["skin"] * 0.55 + scene.color(0.42, 0.12, 0.13)
    freckled = scene.where("freckles", 1)
    for side in (-1.0, 1.0):
        frame = scene.anchor(side * values["face_width"] * 0.62, scene.constant(0.26))
        patch = scene.canvas.patch(frame, (0.22, 0.16, 0.22, 0.16))
        soft = smooth(1.0 - (patch.u / 0.22) ** 2 - (patch.v / 0.16) ** 2)
        patch.paint(soft, rosy, values["blush"] * 0.75)
        patch.finish()
        if freckled:
            patch = scene.canvas.patch(frame, 0.2, freckled)
            for x, y in ((-0.10, -0.02), (0.02, 0.05), (0.07, -0.06)):
                dot = patch.cover(ellipse(patch.u - x, patch.v - y, 0.026, 0.026))
                patch.paint(dot, values["skin"] * 0.62, 0.7)
            patch.finish()


def _draw_muzzle(scene: Scene) -> None:
    """Paint a cat's light muzzle and whiskers and the stripes on its forehead."""
    rows = scene.where("species", 1)
    if not rows:
        return
    values = scene.values
    frame = scene.anchor(scene.constant(0.0), scene.constant(0.45))
    patch = scene.canvas.patch(frame, (1.15, 0.5, 1.15, 0.7), rows)
    drop = 0.08 + 0.14 * patch.column(scene.controls["open"])
    distance = ellipse(patch.u, patch.v - drop, 0.56, 0.36 + drop)
    patch.paint(patch.cover(distance * 0.5), values["skin"] * 0.4 + 0.58)
    for rise in (-0.14, 0.06):
        bend = patch.v + 0.08 - rise * (patch.u.abs() + 0.3) * 0.9
        line = torch.maximum(bend.abs() - 0.018, (patch.u.abs() - 0.80).abs() - 0.26)
        patch.paint(patch.cover(line), values["hair_color"])
    patch.finish()
    frame = scene.anchor(scene.constant(0.0), scene.constant(-0.72))
    patch = scene.canvas.patch(frame, 0.4, rows)
    for x in (-0.2, 0.0, 0.2):
        stripe = box(patch.u - x * (1 + 0.3 * patch.v), patch.v, 0.045, 0.17 - abs(x) * 0.3, 0.04)
        patch.paint(patch.cover(stripe), values["hair_color"], 0.8)
    patch.finish()


def _eye(scene: Scene) -> Tensor:
    return torch.eye(2, device=scene.pose.sin_yaw.device)[None]
