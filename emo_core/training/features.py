"""Drawing of the face's features: eyes, brows, nose, mouth, beards and glasses."""

from __future__ import annotations

import torch
from torch import Tensor

from .drawing import Patch, box, ellipse, smooth, squircle
from .heads import face_plane
from .scene import Scene

EYE_Y = -0.08
BROW_Y = -0.42
NOSE_Y = 0.17
MOUTH_Y = 0.46
MOUTH_HEIGHT = 0.56
"""Height of the widest open mouth in units of half a face height."""


def draw_eyes(scene: Scene) -> None:
    """Paint eyes: white, iris, pupil, highlight, lids and lashes."""
    values, controls = scene.values, scene.controls
    lash = values["hair_color"] * 0.30 + scene.color(0.03, 0.02, 0.03)
    statues = (values["species"] == 3.0).float()
    white = scene.color(0.98, 0.98, 0.97) * (1 - 0.08 * statues[:, None])
    pupil = scene.color(0.05, 0.04, 0.06) + statues[:, None] * values["iris"] * 0.75
    blink = controls["blink"].clamp(0.0, 1.0)
    for side in (-1.0, 1.0):
        frame = scene.anchor(values["eye_gap"] * side, scene.constant(EYE_Y))
        patch = scene.canvas.patch(frame, (0.27, 0.32, 0.27, 0.32))
        wide = patch.column(values["eye_size"])
        tall = wide * patch.column(values["eye_tall"])
        shut = patch.column(blink)
        v = patch.v - 0.45 * tall * shut + (0.9 * shut) * patch.u * patch.u
        half = tall * (1.0 - shut) + 0.006
        half = torch.where(v < 0, half * 0.76, half)
        lids = ellipse(patch.u, v + 0.022 * (1 - shut), wide + 0.03, half + 0.035)
        lid = patch.cover(lids)
        patch.paint(lid, lash)
        opening = patch.cover(ellipse(patch.u, v, wide, half)) * (1.0 - shut**8) * (lid > 0)
        patch.paint(opening, white)
        x = patch.u - 0.36 * wide * patch.column(controls["gaze_x"])
        y = patch.v - 0.30 * tall * patch.column(controls["gaze_y"])
        patch.paint(opening * patch.cover(ellipse(x, y, 0.74 * wide, 0.74 * wide)), values["iris"])
        patch.paint(opening * patch.cover(ellipse(x, y, 0.42 * wide, 0.42 * wide)), pupil)
        glint = ellipse(x + 0.22 * wide, y + 0.26 * wide, 0.20 * wide, 0.20 * wide)
        patch.paint(opening * patch.cover(glint), white)
        patch.finish()


def draw_brows(scene: Scene) -> None:
    """Paint the eyebrows."""
    values, controls = scene.values, scene.controls
    color = values["hair_color"] * 0.80
    lift = controls["brow"]
    for side in (-1.0, 1.0):
        frame = scene.anchor(values["eye_gap"] * side * 1.02, BROW_Y - 0.11 * lift)
        patch = scene.canvas.patch(frame, (0.3, 0.2, 0.3, 0.2))
        tilt = patch.column(values["brow_tilt"] - 0.25 * lift.clamp(max=0.0)) * side
        arch = patch.column(0.9 + 0.5 * lift)
        v = patch.v + tilt * patch.u - arch * (patch.u * patch.u - 0.02)
        thick = patch.column(values["brow_thick"])
        patch.paint(patch.cover(box(patch.u, v, 0.21, thick, thick)), color)
        patch.finish()


def draw_nose(scene: Scene) -> None:
    """Paint the nose with its shadow and highlight."""
    values, pose = scene.values, scene.pose
    skin = values["skin"]
    cats = (values["species"] == 1.0).float()[:, None]
    frame = scene.anchor(scene.constant(0.0), scene.constant(NOSE_Y), lift=0.12)
    patch = scene.canvas.patch(frame, (0.26, 0.3, 0.26, 0.22))
    size = patch.column(values["nose"])
    lean = patch.column(0.30 * values["light"] - 0.3 * pose.sin_yaw)
    shadow = ellipse(patch.u + lean * size * 0.6, patch.v - size * 0.34, size * 1.10, size * 0.86)
    patch.paint(patch.cover(shadow * 0.6), skin * 0.70, 0.9)
    tint = skin * 0.93 + scene.color(0.07, 0.03, 0.03)
    color = tint * (1 - cats) + cats * scene.color(0.82, 0.42, 0.45)
    patch.paint(patch.cover(ellipse(patch.u, patch.v, size * 1.05, size * 0.85)), color.clamp(0, 1))
    spot = smooth(1.0 - ((patch.u - lean * 0.1) / size) ** 2 * 3 - (patch.v / size + 0.35) ** 2 * 5)
    patch.paint(spot, color * 0.6 + 0.4, 0.6)
    patch.finish()


def draw_mouth(scene: Scene) -> None:
    """Paint lips, and inside them the dark, the teeth and the tongue."""
    values, controls = scene.values, scene.controls
    frame = scene.anchor(scene.constant(0.0), scene.constant(MOUTH_Y), bend=0.35)
    patch = scene.canvas.patch(frame, (0.62, 0.38, 0.62, 0.62))
    spread, opened = patch.column(controls["width"]), patch.column(controls["open"]).clamp(0, 1)
    half = patch.column(values["mouth_width"]) * (0.15 + 0.25 * spread) * (1 - 0.10 * opened)
    height = MOUTH_HEIGHT * opened
    curve = patch.column(values["smile"]) * (0.4 + 0.8 * spread) * (1 - 0.6 * opened)
    v = patch.v + curve * patch.u * patch.u - 0.04 * curve
    above, below = 0.30 * height + 0.017, 0.70 * height + 0.017
    full = patch.column(values["lip_full"]) * (1.18 - 0.36 * spread)
    upper, lower = above + 0.85 * full, below + 1.15 * full
    outline = ellipse(patch.u, v, half + 0.75 * full, torch.where(v < 0, upper, lower))
    lips = patch.cover(outline)
    patch.paint(lips, values["lip"])
    low_light = smooth(1.0 - (patch.u / half) ** 2 - ((v - below - 0.55 * full) / full) ** 2 * 4)
    patch.paint(low_light * lips, values["lip"] * 0.7 + 0.3, 0.5)
    inside = patch.cover(ellipse(patch.u, v, half, torch.where(v < 0, above, below))) * (lips > 0)
    patch.paint(inside, values["lip"] * 0.10 + scene.color(0.14, 0.03, 0.05))
    _draw_tongue_and_teeth(scene, patch, (v, inside, half, above, below))
    patch.finish()


def draw_beard(scene: Scene) -> None:
    """Paint full beards and goatees on the chin, and moustaches above the mouth."""
    values, controls = scene.values, scene.controls
    color = values["hair_color"] * 0.88
    for kind in (1, 2):
        rows = scene.where("beard", kind)
        if not rows:
            continue
        patch = scene.canvas.patch(scene.pose.head, (1.05, 0.2, 1.05, 1.45), rows)
        u, v = face_plane(scene, patch, 0.05)
        wide = patch.column(values["face_width"])
        face = squircle(u, v, wide + 0.02, 1.0, patch.column(values["square"]))
        a = (u - patch.column(0.35 * scene.pose.sin_yaw)) / wide
        nod = patch.column(0.45 * scene.pose.sin_pitch)
        if kind == 1:
            edge = 0.36 - nod - 0.42 * a * a * a * a - v
        else:
            edge = torch.maximum(0.42 - nod - v, a.abs() - 0.42 + 0.1 * v) * 0.8
        light = (1.04 - 0.25 * (v - 0.5))[:, None]
        body = patch.pick(color)[:, :, None, None] * light
        patch.blend(patch.cover(torch.maximum(face, edge * 0.85)), body)
        patch.finish()
    rows = scene.where("beard", 1, 3)
    if rows:
        raised = 0.30 * MOUTH_HEIGHT * controls["open"]
        frame = scene.anchor(scene.constant(0.0), MOUTH_Y - 0.13 - raised)
        patch = scene.canvas.patch(frame, (0.5, 0.2, 0.5, 0.25), rows)
        a = patch.u.abs()
        bow = patch.v - 0.9 * a * a + 0.02
        patch.paint(patch.cover(ellipse(a - 0.19, bow, 0.25, 0.085)), color)
        patch.finish()


def draw_glasses(scene: Scene) -> None:
    """Paint thin frames around the eyes."""
    values = scene.values
    rows = scene.where("glasses", 1, 2)
    if not rows:
        return
    line = 0.027
    square = (values["glasses"] == 2.0).float() * 0.72
    for side in (-1.0, 1.0):
        frame = scene.anchor(values["eye_gap"] * side * 1.04, scene.constant(EYE_Y), lift=0.08)
        patch = scene.canvas.patch(frame, (0.6, 0.42, 0.6, 0.42), rows)
        ring = squircle(patch.u, patch.v, 0.305, 0.30, patch.column(square)).abs() - line
        temple = torch.maximum((patch.v + 0.06).abs() - line, (patch.u * side - 0.42).abs() - 0.10)
        patch.paint(patch.cover(torch.minimum(ring, temple)), values["frame"])
        patch.finish()
    frame = scene.anchor(scene.constant(0.0), scene.constant(EYE_Y), lift=0.10)
    patch = scene.canvas.patch(frame, 0.15, rows)
    gap = patch.column((values["eye_gap"] * 1.04 - 0.30).clamp(min=0.03))
    bridge = torch.maximum((patch.v + 0.07 - 0.6 * patch.u**2).abs() - line, patch.u.abs() - gap)
    patch.paint(patch.cover(bridge), values["frame"])
    patch.finish()


def _draw_tongue_and_teeth(
    scene: Scene, patch: Patch, mouth: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
) -> None:
    """Fill the opening of the mouth: v, coverage, half width, heights above and below."""
    v, inside, half, above, below = mouth
    controls = scene.controls
    tongue, teeth = patch.column(controls["tongue"]), patch.column(controls["teeth"])
    rise = (0.30 + 0.75 * tongue) * below
    bulge = ellipse(patch.u, v - below - 0.02, half * (0.70 + 0.1 * tongue), rise + 0.01)
    pink = scene.color(0.86, 0.40, 0.42)
    patch.paint(inside * patch.cover(bulge), pink)
    groove = smooth(1.0 - (patch.u / (0.2 * half)) ** 2)
    patch.paint(inside * patch.cover(bulge) * groove, pink * 0.84, 0.6)
    shown = teeth.clamp(0.0, 1.0)
    depth = torch.minimum(0.05 + 0.11 * shown, 0.85 * (above + below))
    row = v + above * (1 - 0.5 * (patch.u / half) ** 2) - depth
    strength = smooth(shown * 4.0)
    patch.paint(inside * patch.cover(row) * strength, scene.color(0.97, 0.96, 0.93))
