"""The backbone: a UNet that predicts a clip's noise under EMO's conditions.

At every spot of the walk: ResNet block -> self-attention -> reference attention -> audio attention
-> feed-forward -> temporal module. Everything that the conditions contribute and that no sampling
step changes (keys, values, motion frames, region) is projected once per clip, by prepare().
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from .attention import Build, KeyValue, RelativePositions, Rows
from .conditions import Audience, Clip, Conditions
from .config import EMOConfig
from .masked_audio import MaskedAudioTransformer
from .reference import halved
from .temporal import MotionState, TemporalInputs, TemporalModule, TemporalPositions
from .transformer import Seen, SpatialInputs, SpatialTransformer
from .unet import Spot, Stratum, UNet


class Denoiser(UNet):
    """EMO's Backbone Network.

    Args:
        config: the model.
        build: where layers come from.
    """

    def __init__(self, config: EMOConfig, build: Build) -> None:
        unet = config.unet

        def attention(spot: Spot) -> nn.Module | None:
            if not spot.has_attention(unet):
                return None
            return SpatialTransformer(spot, config, True, build)

        def audio(spot: Spot) -> nn.Module | None:
            if not spot.has_attention(unet) or config.audio.attention == "layer":
                return None
            return MaskedAudioTransformer(spot, config, build)

        def motion(spot: Spot) -> nn.Module | None:
            if spot.level not in config.temporal.levels and not spot.name.startswith("mid"):
                return None
            return TemporalModule(spot.width, config, build)

        layers = {"attentions": attention, "audio_modules": audio, "motion_modules": motion}
        super().__init__(unet, layers, build)
        self.config = config
        self.conv_norm_out = build.group_norm(unet.norm_groups, unet.widths[0], eps=1e-5)
        self.conv_out = build.conv(unet.widths[0], unet.latent_channels)
        if unet.position_grid:
            heads, grid = unet.num_heads, unet.position_grid
            length = config.temporal.num_frames + config.temporal.num_motion_frames
            levels = range(len(unet.widths))
            self.self_positions = nn.ModuleList(
                [RelativePositions(heads, grid, build) for _ in levels]
            )
            self.reference_positions = nn.ModuleList(
                [RelativePositions(heads, grid, build) for _ in levels]
            )
            self.temporal_positions = nn.ModuleList(
                [TemporalPositions(heads, length, build) for _ in levels]
            )

    def prepare(self, conditions: Conditions) -> Clip:
        """Project a clip's conditions for every spot, once for all sampling steps."""
        reference, motion = conditions.reference.portrait, conditions.reference.motion
        clip = Clip(
            conditions.region, {}, {}, {}, {}, {}, motion_weights=conditions.motion_weights
        )
        for block in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            assert isinstance(block, Stratum)
            for index, spot in enumerate(block.spots):
                transformer = block.layer("attentions", index)
                if isinstance(transformer, SpatialTransformer):
                    self._prepare_spatial(clip, spot, transformer, conditions, reference)
                audio = block.layer("audio_modules", index)
                if isinstance(audio, MaskedAudioTransformer):
                    clip.audio[spot.name] = audio.project_audio(conditions.audio_tokens)
                temporal = block.layer("motion_modules", index)
                if isinstance(temporal, TemporalModule) and motion is not None:
                    frames = motion[spot.name]
                    variants = len(frames) // len(conditions.region)
                    clip.motion[spot.name] = replace(temporal.prepare(frames), variants=variants)
                    if conditions.speed is not None:
                        clip.speed[spot.name] = temporal.project_speed(conditions.speed)
        height, width = conditions.region.shape[-2:]
        sizes = [
            (halved(height, level), halved(width, level))
            for level in range(len(self.config.unet.widths))
        ]
        if self.config.unet.position_grid:
            self._prepare_positions(clip, conditions, sizes)
        if self.config.audio.attention == "masked3":
            clip.masks.extend(_checked(masks, size) for masks, size in
                              zip_longest(conditions.masks, sizes))
        return clip

    @staticmethod
    def _prepare_spatial(
        clip: Clip, spot: Spot, transformer: SpatialTransformer, conditions: Conditions,
        reference: dict[str, Tensor],
    ) -> None:
        block = transformer.block
        tokens = rearrange(reference[spot.name], "B C h w -> B (h w) C")
        clip.reference[spot.name] = block.project_reference(tokens)
        if block.attn_audio is not None:
            clip.audio[spot.name] = [block.attn_audio.project_kv(conditions.audio_tokens)]
        if block.concatenates and block.attn2 is not None and conditions.face_tokens is not None:
            clip.face[spot.name] = block.attn2.project_kv(conditions.face_tokens.flatten(0, 1))

    def _prepare_positions(
        self, clip: Clip, conditions: Conditions, sizes: list[tuple[int, int]]
    ) -> None:
        length = conditions.audio_tokens.shape[1] + self.config.temporal.num_motion_frames
        device = conditions.region.device
        # Several pictures of a person lie below each other.
        pictures = conditions.reference.portrait["down_blocks.0.0"].shape[-2] // sizes[0][0]
        for level, size in enumerate(sizes):
            clip.self_bias.append(self.self_positions[level](*size, device))
            bias = self.reference_positions[level](*size, device)
            clip.reference_bias.append(bias.repeat(1, 1, pictures) if pictures > 1 else bias)
            clip.temporal_bias.append(self.temporal_positions[level](length, device))

    def forward(
        self, latents: Tensor, timestep: Tensor, clip: Clip, audience: Audience | None = None
    ) -> Tensor:
        """Predict the noise (or v) of a clip.

        Args:
            latents: (R, F, C, h, w), noisy; R rows, a multiple of the clip's B videos.
            timestep: (R,), 0..999.
            clip: from prepare().
            audience: which rows see which condition; all by default (then R = B).

        Returns:
            (R, F, C, h, w).
        """
        audience = audience or Audience()
        num_rows, frames = latents.shape[:2]
        features = self.time_embedding(timestep, latents.dtype).repeat_interleave(frames, dim=0)
        hidden_states = latents.flatten(0, 1)
        if self.config.locator.place == "latents":
            hidden_states = _located(hidden_states, clip, audience, frames)
        hidden_states = self.conv_in(hidden_states)
        if self.config.locator.place == "conv_in":
            hidden_states = _located(hidden_states, clip, audience, frames)

        def visit(block: Stratum, index: int, hidden_states: Tensor) -> Tensor:
            spot = block.spots[index]
            spatial = self._spatial_inputs(clip, spot, audience, num_rows, frames)
            for name in ("attentions", "audio_modules"):
                layer = block.layer(name, index)
                if layer is not None:
                    hidden_states = layer(hidden_states, spatial)
            temporal = block.layer("motion_modules", index)
            if temporal is not None and spot.name in clip.motion:
                inputs = self._temporal_inputs(clip, spot, audience, num_rows)
                hidden_states = temporal(hidden_states, frames, inputs)
            return hidden_states

        hidden_states = self.walk(hidden_states, features, visit)
        out = self.conv_out(functional.silu(self.conv_norm_out(hidden_states)))
        prediction: Tensor = rearrange(out, "(R F) C h w -> R F C h w", F=frames)
        return prediction

    @staticmethod
    def _spatial_inputs(
        clip: Clip, spot: Spot, audience: Audience, num_rows: int, frames: int
    ) -> SpatialInputs:
        """What the spatial layers of a spot see."""
        reference, audio = clip.reference.get(spot.name), clip.audio.get(spot.name, [])
        face = clip.face.get(spot.name)
        return SpatialInputs(
            num_frames=frames,
            reference=None if reference is None else _portrait(reference, audience, clip, frames),
            face=None if face is None else Seen(face, _face_rows(audience, face, num_rows)),
            audio=tuple(Seen(context, audience.audio) for context in audio),
            self_bias=clip.self_bias[spot.level] if clip.self_bias else None,
            reference_bias=clip.reference_bias[spot.level] if clip.reference_bias else None,
            masks=clip.masks[spot.level] if clip.masks else None,
            motion_weights=clip.motion_weights,
        )

    @staticmethod
    def _temporal_inputs(
        clip: Clip, spot: Spot, audience: Audience, num_rows: int
    ) -> TemporalInputs:
        """What the temporal module of a spot sees; motion frames are laid out for all rows."""
        motion = clip.motion[spot.name]
        batch = clip.region.shape[0]
        hidden, variants = motion.hidden_states, motion.variants
        if num_rows != batch or variants > 1:
            rows = torch.arange(num_rows, device=hidden.device) % batch
            if variants > 1:
                rows[_seeing(audience)] += batch
            hidden, key, value = (
                rearrange(part, "(B N) n C -> B N n C", B=variants * batch)[rows].flatten(0, 1)
                for part in (hidden, *motion.context)
            )
            motion = MotionState(hidden, (key, value))
        return TemporalInputs(
            motion=motion,
            speed=clip.speed.get(spot.name),
            speed_rows=audience.speed,
            bias=clip.temporal_bias[spot.level] if clip.temporal_bias else None,
        )


def _located(hidden_states: Tensor, clip: Clip, audience: Audience, frames: int) -> Tensor:
    """Add the face locator's code to (R * F, C, h, w), in the rows that see the region."""
    if audience.region.empty:
        return hidden_states
    region = audience.region.condition(clip.region)[:, None].expand(-1, frames, -1, -1, -1)
    by_row = rearrange(hidden_states, "(R F) C h w -> R F C h w", F=frames)
    return audience.region.add(by_row, region).flatten(0, 1)


def _face_rows(audience: Audience, face: KeyValue, num_rows: int) -> Rows:
    """Rows that see the portrait see its face tokens, the others those of no face."""
    batch = face[0].shape[0] // 2
    source = torch.arange(num_rows, device=face[0].device) % batch
    source[_seeing(audience)] += batch
    return Rows(source=source)


def _seeing(audience: Audience) -> slice | Tensor:
    """The rows that see the portrait."""
    index = audience.reference.index
    return slice(None) if index is None else index


def _portrait(reference: KeyValue, audience: Audience, clip: Clip, frames: int) -> Seen:
    """The portrait for the rows that see it; where there are two, frames read them in turn.

    Hallo counts frames over both branches of guidance, so the second begins at number F.
    """
    rows, batch = audience.reference, clip.region.shape[0]
    if reference[0].shape[0] == batch:
        return Seen(reference, rows)
    turns = (torch.arange(frames, device=reference[0].device) + frames) % 2
    return Seen(reference, rows, turns * batch)


def _checked(masks: Tensor | None, size: tuple[int, int] | None) -> Tensor:
    """Masks (3, h, w) of a level as (3, N).

    Raises:
        ValueError: if they are not of that level.
    """
    if masks is None or size is None or tuple(masks.shape) != (3, *size):
        raise ValueError(
            f"this model hears through masks of the picture, the face and the lips, (3, *{size}) "
            f"at this level, got {None if masks is None else tuple(masks.shape)}; make them with "
            "emo_core.face_masks"
        )
    return masks.flatten(1)
