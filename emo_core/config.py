"""What a model is: frozen, validated configurations; presets.py has those that there are.

Variants of the network (EMO's own architecture, Hallo's, the embedded small model) are values of
these fields, never subclasses or branches on a training mode. A configuration travels as JSON in
the header of its checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from .config_fields import build_fields, check_choices


@dataclass(frozen=True)
class UNetConfig:
    """The block structure that the backbone and ReferenceNet share: SD 1.5's, at any width.

    Attributes:
        latent_channels: channels of the VAE's latents.
        widths: channels of each resolution level.
        attention_levels: levels whose blocks have transformers (SD 1.5: 0, 1 and 2).
        layers_per_block: ResNet blocks in each down block; up blocks have one more.
        num_heads: heads of every attention.
        norm_groups: groups of every GroupNorm; divides every width.
        time_width: width of the timestep embedding (SD 1.5: four times the first level's).
        feed_forward_mult: inner width of a feed-forward over its outer width.
        reference_attention: "layer", a layer of its own in place of SD's text attention (EMO);
            "concat", the portrait's tokens appended to the self-attention's keys (Hallo).
        face_tokens: tokens of a face embedding for the text attention; 0 removes that layer (EMO).
        face_token_width: width of those tokens.
        face_embedding_width: width of the face embedding they are projected from.
        position_grid: rows and columns up to which attentions know relative positions (emo-tiny);
            0 for none (SD 1.5).
        reference_order: which face tokens the portrait and the motion frames see where there are
            any: "conditional", those of their own branch of guidance; "published", Hallo's, whose
            rows see none and the face in turn, and whose frames read the two portraits in turn.
        reference_rounding: "float16" rounds what ReferenceNet gives, as Hallo does; "none".
    """

    latent_channels: int
    widths: tuple[int, ...]
    attention_levels: tuple[int, ...]
    layers_per_block: int
    num_heads: int
    norm_groups: int
    time_width: int
    feed_forward_mult: int
    reference_attention: Literal["layer", "concat"]
    face_tokens: int
    face_token_width: int
    face_embedding_width: int
    position_grid: int
    reference_order: Literal["published", "conditional"] = "conditional"
    reference_rounding: Literal["float16", "none"] = "none"

    def __post_init__(self) -> None:
        check_choices(self)
        for width in self.widths:
            for name in ("norm_groups", "num_heads"):
                if width % getattr(self, name):
                    raise ValueError(
                        f"every width must be divisible by {name}={getattr(self, name)}, got "
                        f"{width} in widths={self.widths}"
                    )
        if any(level not in range(len(self.widths)) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels must lie in 0..{len(self.widths) - 1}, "
                f"got {self.attention_levels}"
            )
        if self.reference_attention == "layer" and self.face_tokens:
            raise ValueError(
                "face tokens take the place of the reference attention's layer; with face_tokens="
                f"{self.face_tokens} reference_attention must be 'concat'"
            )
        if self.reference_attention == "concat" and self.position_grid:
            raise ValueError(
                "reference_attention 'concat' knows no relative positions; position_grid must be "
                f"0, got {self.position_grid}"
            )


@dataclass(frozen=True)
class AudioConfig:
    """Sound: the encoder's features, their window per frame, and how the backbone attends to it.

    Attributes:
        attention: "layer", one cross-attention after the reference attention (EMO); "masked3",
            Hallo's own transformer with three masked attentions.
        num_layers: hidden layers of the encoder that are kept for a frame.
        layer_width: width of one of them.
        window: m; a frame sees the features of frames -m..m.
        num_tokens: tokens a frame is projected to ("layer": one for each frame of the window).
        token_width: width of a token.
        hidden_width: inner width of Hallo's projection; 0 for EMO's, which has none.
        encoder: "wav2vec2" (transformers) or "logmel" (the small convolutional encoder).
        alignment: features brought to the frame rate "before" or "after" the transformer.
        windows: "grid", fixed windows of 20 s; "whole_file"; "pieces_60s" (Hallo2).
    """

    attention: Literal["layer", "masked3"]
    num_layers: int
    layer_width: int
    window: int
    num_tokens: int
    token_width: int
    hidden_width: int
    encoder: Literal["wav2vec2", "logmel"]
    alignment: Literal["before", "after"]
    windows: Literal["grid", "whole_file", "pieces_60s"]

    def __post_init__(self) -> None:
        check_choices(self)
        if self.attention == "layer" and self.num_tokens != 2 * self.window + 1:
            raise ValueError(
                f"audio attention 'layer' has one token for each of the {2 * self.window + 1} "
                f"frames of its window, got num_tokens={self.num_tokens}"
            )


@dataclass(frozen=True)
class TemporalConfig:
    """Time: temporal modules, the frames of a clip and the motion frames before it.

    Attributes:
        levels: resolution levels that have temporal modules.
        num_attentions: self-attentions over time in a module (AnimateDiff: 2).
        max_positions: length of the table of positions.
        num_frames: f, frames of a clip.
        num_motion_frames: n, frames of the previous clip that a clip sees.
        first_motion: what the first clip sees: "zeros" (EMO's zero maps) or "image" (Hallo).
        hand_over: motion frames go on as "latents", or through "pixels": decoded, clamped, encoded.
        motion_mask: share of the motion frames' pixels outside the face that are turned to grey at
            random (Hallo2: a quarter); needs hand_over "pixels".
        joins: where clips meet unless a film asks for something else: "plain" as EMO's and Hallo's
            do, or another of joins.plan_joins() that was measured to suit the weights better.
    """

    levels: tuple[int, ...]
    num_attentions: int
    max_positions: int
    num_frames: int
    num_motion_frames: int
    first_motion: Literal["zeros", "image"]
    hand_over: Literal["latents", "pixels"]
    motion_mask: float = 0.0
    joins: Literal["plain", "quiet", "overlap"] = "plain"

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.motion_mask < 1 or (self.motion_mask and self.hand_over != "pixels"):
            raise ValueError(
                "motion_mask is a share of pixels, 0 to 1, and needs hand_over 'pixels'; got "
                f"{self.motion_mask} with {self.hand_over!r}"
            )
        if self.num_frames + self.num_motion_frames > self.max_positions:
            raise ValueError(
                f"num_frames + num_motion_frames must not exceed max_positions="
                f"{self.max_positions}, got {self.num_frames} + {self.num_motion_frames}"
            )
        if self.num_motion_frames > self.num_frames:
            raise ValueError(
                f"num_motion_frames={self.num_motion_frames} come from one clip of "
                f"num_frames={self.num_frames}; they cannot be more"
            )


@dataclass(frozen=True)
class SpeedConfig:
    """Speed layers (EMO, "Speed Layers"): head speed against buckets.

    The paper gives neither the number of buckets nor their centres and radii; this table is ours
    and is stored in the checkpoint.

    Attributes:
        centres: c_i, degrees per frame at 30 frames per second, rising.
        radii: r_i, where bucket i's tanh saturates; one for each centre.
        window: m; a frame sees the speeds of frames -m..m.
        width: width of the speed features.
    """

    centres: tuple[float, ...]
    radii: tuple[float, ...]
    window: int
    width: int

    def __post_init__(self) -> None:
        if len(self.centres) != len(self.radii) or not self.centres:
            raise ValueError(
                f"speed buckets need one radius for each centre, got {len(self.centres)} centres "
                f"and {len(self.radii)} radii"
            )
        if min(self.radii) <= 0 or list(self.centres) != sorted(self.centres):
            raise ValueError("speed bucket centres must rise and radii must be above 0")


@dataclass(frozen=True)
class LocatorConfig:
    """Face locator: the region mask through light convolutions that halve it three times.

    Attributes:
        in_channels: channels of the region mask.
        widths: channels of its convolutions.
        place: what the result is added to: "conv_in", what the backbone's first convolution gives
            (Hallo and every other published relative), or the noisy "latents" (EMO's words).
    """

    in_channels: int
    widths: tuple[int, int, int, int]
    place: Literal["conv_in", "latents"] = "conv_in"

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class SamplingConfig:
    """Noise schedule and the sampling that a checkpoint is meant for.

    Attributes:
        schedule: "scaled_linear" (SD 1.5), "linear_zero_snr" (Hallo), "cosine" (emo-tiny).
        prediction: what the backbone predicts: "epsilon" or "v_prediction".
        num_inference_steps: default number of steps.
        guidance_scale: default guidance scale.
    """

    schedule: Literal["scaled_linear", "linear_zero_snr", "cosine"]
    prediction: Literal["epsilon", "v_prediction"]
    num_inference_steps: int
    guidance_scale: float

    def __post_init__(self) -> None:
        check_choices(self)
        if self.schedule == "linear_zero_snr" and self.prediction == "epsilon":
            raise ValueError(
                "schedule 'linear_zero_snr' begins without any signal, where predicted noise says "
                "nothing about the picture; prediction must be 'v_prediction'"
            )


@dataclass(frozen=True)
class EMOConfig:
    """A whole model.

    Attributes:
        name: what to call it.
        picture_size: width and height in pixels it was made for.
        latent_factor: pixels per latent cell, along one side.
        frame_rate: frames per second.
        unet: block structure of backbone and ReferenceNet.
        audio: sound.
        temporal: clips and time.
        speed: speed layers; None for models without.
        locator: face locator.
        sampling: schedule and defaults.
    """

    name: str
    picture_size: int
    latent_factor: int
    frame_rate: int
    unet: UNetConfig
    audio: AudioConfig
    temporal: TemporalConfig
    speed: SpeedConfig | None
    locator: LocatorConfig
    sampling: SamplingConfig

    @property
    def latent_size(self) -> int:
        """Rows and columns of the latents at picture_size."""
        return self.picture_size // self.latent_factor

    def to_json(self) -> str:
        """The configuration as JSON, for a checkpoint's header."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EMOConfig:
        """Read what to_json() wrote.

        Raises:
            ValueError: if a field is missing or unknown, or a value does not fit.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"the checkpoint's configuration is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise ValueError("the checkpoint's configuration must be a JSON object")
        config: EMOConfig = build_fields(cls, values)
        return config
