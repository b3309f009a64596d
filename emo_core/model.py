"""EMO: the networks that make a clip's conditions of its inputs, and the backbone behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from .attention import Build
from .audio_tokens import AudioProjection, HalloAudioProjection
from .conditions import EVEN_MOTION, Clip, Conditions, MotionWeights
from .config import EMOConfig
from .denoiser import Denoiser
from .face import FaceEmbeddingProjection, FaceLocator
from .reference import Bank, ReferenceFeatures, ReferenceNet
from .speed import SpeedEncoder


@dataclass(frozen=True)
class ClipInputs:
    """What one clip sees, as plain tensors. B videos at once.

    Attributes:
        audio: (B, F, 2m + 1, L, D), each frame's window of sound features.
        region: (B, channels, H, W), region mask in pixels, 1 inside.
        speed: (B, F, 2m + 1), each frame's window of head speeds, or None for no request.
        face: (B, face_embedding_width), the portrait's face embedding, or None for zeros (Hallo).
        masks: of each resolution level (3, h, w): full picture, face and lips (Hallo).
        motion_weights: how far the sound moves each of these three (Hallo).
    """

    audio: Tensor
    region: Tensor
    speed: Tensor | None = None
    face: Tensor | None = None
    masks: tuple[Tensor, ...] = ()
    motion_weights: MotionWeights = EVEN_MOTION


class Conditioner(nn.Module):
    """All networks of a model outside the sampling loop: what they give changes with no step.

    Args:
        config: the model.
        build: where layers come from.
    """

    def __init__(self, config: EMOConfig, build: Build) -> None:
        super().__init__()
        self.config = config
        self.reference_unet = ReferenceNet(config, build)
        at_latents = config.locator.place == "latents"
        added_to = config.unet.latent_channels if at_latents else config.unet.widths[0]
        self.face_locator = FaceLocator(config.locator, added_to, build)
        project = HalloAudioProjection if config.audio.hidden_width else AudioProjection
        self.audioproj = project(config.audio, build)
        if config.unet.face_tokens:
            self.imageproj = FaceEmbeddingProjection(config.unet, build)
        if config.speed is not None:
            self.speed_encoder = SpeedEncoder(config.speed, build)

    def face_tokens(self, embedding: Tensor | None, like: Tensor) -> Tensor | None:
        """Tokens of no face and of the face, (2, B, T, D); None for models without.

        Args:
            embedding: (B, face_embedding_width); None for zeros, which is the face of nobody.
            like: (B, ...), a tensor whose batch, device and dtype the tokens get.
        """
        width = self.config.unet.face_embedding_width
        if not self.config.unet.face_tokens:
            return None
        nobody = like.new_zeros(like.shape[0], width)
        face = nobody if embedding is None else embedding.to(nobody)
        if face.shape != nobody.shape:
            raise ValueError(
                f"a face embedding has {width} numbers, got {tuple(face.shape)} for {len(like)} "
                "portraits; give the embedding of the encoder that the weights were trained with"
            )
        return torch.stack([self.imageproj(nobody), self.imageproj(face)])

    def encode_portrait(self, latents: Tensor, face: Tensor | None = None) -> Bank:
        """ReferenceNet's features of portraits; once per video.

        The paper shows one picture of a person; more of them give reference attention more tokens
        to choose from, and the same picture twice changes nothing (with `concat` it does, since
        a frame's own tokens stay as many).

        Args:
            latents: (B, C, h, w), or (B, r, C, h, w) for r pictures of each person, whose features
                then lie below each other, (B, C, r * h, w).
            face: (B, face_embedding_width), their face embeddings; None for zeros.
        """
        if latents.ndim == 5:
            count = latents.shape[1]
            faces = None if face is None else face.repeat_interleave(count, dim=0)
            bank = self.encode_portrait(latents.flatten(0, 1), faces)
            return {
                name: rearrange(features, "(B r) C h w -> B C (r h) w", r=count)
                for name, features in bank.items()
            }
        tokens = self.face_tokens(face, latents)
        if tokens is None:
            return self._features(latents, None)
        if self.config.unet.reference_order == "conditional":
            return self._features(latents, tokens[1])
        # Hallo runs [portrait, motion frames] once for each branch, and row k of that batch sees
        # the face if k is odd: the second branch begins at row n + 1.
        second = (self.config.temporal.num_motion_frames + 1) % 2
        return self._features(latents.repeat(2, 1, 1, 1), tokens[[0, second]].flatten(0, 1))

    def encode_motion(self, latents: Tensor, face: Tensor | None = None) -> Bank:
        """ReferenceNet's features of motion frames (B, n, C, h, w); once per clip.

        Args:
            latents: of the motion frames.
            face: (B, face_embedding_width), the face embeddings; None for zeros.
        """
        count = latents.shape[1]
        tokens = self.face_tokens(face, latents)
        if tokens is not None:
            rows = torch.arange(2)[:, None].expand(2, count)
            if self.config.unet.reference_order == "published":
                rows = (rows * (count + 1) + 1 + torch.arange(count)) % 2
            latents = latents.repeat(2, 1, 1, 1, 1)
            tokens = rearrange(tokens[rows], "V n B T D -> (V B n) T D")
        bank = self._features(rearrange(latents, "B n C h w -> (B n) C h w"), tokens)
        return {
            name: rearrange(features, "(B n) C h w -> B n C h w", n=count)
            for name, features in bank.items()
        }

    def _features(self, latents: Tensor, tokens: Tensor | None) -> Bank:
        """ReferenceNet's features of pictures (N, C, h, w) that see face tokens (N, T, D)."""
        net = self.reference_unet
        bank: Bank = net(latents, None if tokens is None else net.project_face(tokens))
        if self.config.unet.reference_rounding == "none":
            return bank
        return {name: features.half().to(features.dtype) for name, features in bank.items()}

    def no_motion(self, portrait: Bank) -> Bank:
        """EMO's zero maps, which the first clip sees for motion frames."""
        count = self.config.temporal.num_motion_frames
        return {
            name: torch.zeros_like(features)[:, None].expand(-1, count, -1, -1, -1)
            for name, features in portrait.items()
        }

    def conditions(self, portrait: Bank, motion: Bank | None, inputs: ClipInputs) -> Conditions:
        """What drives a clip.

        Args:
            portrait: from encode_portrait().
            motion: from encode_motion() or no_motion(); None for single pictures, which have no
                time (stage 1 of training).
            inputs: the clip's sound, region, speed, face and masks.
        """
        speed = None
        if inputs.speed is not None and self.config.speed is not None:
            speed = self.speed_encoder(inputs.speed)
        return Conditions(
            reference=ReferenceFeatures(portrait, motion),
            audio_tokens=self.audioproj(inputs.audio),
            region=self.face_locator(inputs.region),
            speed=speed,
            face_tokens=self.face_tokens(inputs.face, inputs.audio),
            masks=inputs.masks,
            motion_weights=inputs.motion_weights,
        )


class EMO(Conditioner):
    """All networks of a model but the VAE and the audio encoder; children have Hallo's names.

    Args:
        config: the model.
        dtype: of the weights.
        device: of the weights.
        operations: the namespace that layers are taken from, torch.nn by default.
    """

    def __init__(
        self,
        config: EMOConfig,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        operations: Any = nn,
    ) -> None:
        build = Build(operations, dtype, device)
        super().__init__(config, build)
        self.denoising_unet = Denoiser(config, build)

    def prepare(self, portrait: Bank, motion: Bank | None, inputs: ClipInputs) -> Clip:
        """Everything a clip's sampling steps need, projected once; arguments of conditions()."""
        return self.denoising_unet.prepare(self.conditions(portrait, motion, inputs))
