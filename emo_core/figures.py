"""The figures of an evaluation by name, and how they are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUPPET_FIGURES = "measured against the truth of a puppet film"
PROXY_FIGURES = (
    "no truth was given: the mouth is compared with the loudness of the sound, and the meters "
    "know puppets only, so for any other picture all figures of mouth, head and identity are "
    "proxies"
)

FIGURES: dict[str, tuple[str, str]] = {
    "frames": ("frames of the film", ""),
    "frames_of_the_sound": ("frames the sound asks for", ""),
    "fps": ("frame rate", "frames/s"),
    "mouth_openness_r": ("mouth openness against the truth, r", ""),
    "mouth_openness_best_lag": ("best lag of openness (positive: late)", "frames"),
    "mouth_openness_best_lag_r": ("openness at the best lag, r", ""),
    "mouth_openness_amplitude": ("amplitude of openness, film / truth", ""),
    "mouth_openness_mean": ("mean openness (0 closed .. 1 widest)", ""),
    "mouth_width_r": ("mouth width against the truth, r", ""),
    "mouth_against_loudness_r": ("mouth against loudness (proxy), r", ""),
    "mouth_against_loudness_best_lag": ("best lag against loudness (positive: late)", "frames"),
    "mouth_against_loudness_best_lag_r": ("mouth against loudness at the best lag, r", ""),
    "identity_error": ("identity error against the portrait", "standard deviations"),
    "identity_drift": ("identity error, last 5 s / first 5 s", ""),
    "head_speed": ("head speed", "degrees per frame at 30 fps"),
    "head_speed_of_truth": ("head speed of the truth", "degrees per frame at 30 fps"),
    "pose_difference": ("pose against the truth, rms", "degrees"),
    "sharpness": ("sharpness (mean gradient)", "0..1 per pixel"),
    "join_jump": ("jump at clip joins", "0..1"),
    "inside_jump": ("jump inside clips", "0..1"),
    "join_ratio": ("jump at joins / inside", ""),
}
"""What the numbers of `evaluate_film` are, and their units."""


def format_report(result: Mapping[str, Any]) -> str:
    """Write a measurement for people.

    Args:
        result: what `evaluate_film` gave.

    Returns:
        One line a figure, and the sentence that says what the figures are worth.
    """
    lines = []
    width = max(len(label) for label, _ in FIGURES.values())
    for name, (label, unit) in FIGURES.items():
        if name in result:
            value = result[name]
            text = "undefined" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")
            lines.append(f"{label:<{width}}  {text} {unit}".rstrip())
    lines.append(f"({result['figures']})")
    return "\n".join(lines)
