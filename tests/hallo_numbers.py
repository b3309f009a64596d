"""What Hallo's own code gives for the seeded weights and inputs of published_hallo, into a fixture.

This drives a checkout of github.com/fudan-generative-vision/hallo (commit 8fd7c57) and holds none
of it; docs/parity.md says how it is run. No test imports it.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hallo.utils.util as masks_of_theirs
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from hallo.animate.face_animate import FaceAnimatePipeline
from hallo.models.audio_proj import AudioProjModel
from hallo.models.face_locator import FaceLocator
from hallo.models.image_proj import ImageProjModel
from hallo.models.mutual_self_attention import ReferenceAttentionControl
from hallo.models.unet_2d_condition import UNet2DConditionModel
from hallo.models.unet_3d import UNet3DConditionModel
from hallo.models.wav2vec import Wav2VecModel
from PIL import Image
from published_hallo import (
    FRAMES,
    LATENT,
    MOTION,
    MOTION_WEIGHTS,
    SIZE,
    TIMESTEPS,
    WIDTHS,
    Width,
    draw,
    landmarks,
    picture,
    seed,
    sound,
    thinned,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import transforms
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

MASK_FILES = {"full": "background", "face": "face", "lip": "lip"}
DOWN = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
UP = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
MOTION_MODULES = {
    "num_attention_heads": 8, "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True, "temporal_position_encoding_max_len": 32,
    "temporal_attention_dim_div": 1,
}  # fmt: skip


@dataclass
class Nets:
    """Their networks, seeded."""

    reference: Any
    denoiser: Any
    locator: nn.Module
    face: nn.Module
    sound: nn.Module
    vae: Any
    encoder: Any


def build(width: Width) -> Nets:
    """Their networks at a width, in the state in which their program runs them."""
    config = width.config
    unet, audio = config.unet, config.audio
    shape = {
        "sample_size": 8, "in_channels": 4, "block_out_channels": unet.widths,
        "layers_per_block": 2, "cross_attention_dim": unet.face_token_width,
        "attention_head_dim": 8, "norm_num_groups": 32,
    }  # fmt: skip
    reference = UNet2DConditionModel(**shape, down_block_types=DOWN, up_block_types=UP)
    denoiser = UNet3DConditionModel(
        **shape, out_channels=4, use_inflated_groupnorm=True, use_motion_module=True,
        unet_use_cross_frame_attention=False, unet_use_temporal_attention=False,
        use_audio_module=True, motion_module_resolutions=[1, 2, 4, 8],
        motion_module_mid_block=True, motion_module_decoder_only=False,
        motion_module_type="Vanilla", motion_module_kwargs=MOTION_MODULES,
        audio_attention_dim=audio.token_width, stack_enable_blocks_name=["up", "down", "mid"],
        stack_enable_blocks_depth=[0, 1, 2, 3],
    )  # fmt: skip
    for net in (reference, denoiser):
        net.register_to_config(center_input_sample=False)
        net.enable_gradient_checkpointing()
    vae = width.vae
    nets = Nets(
        reference.eval(),
        denoiser.train(),
        FaceLocator(unet.widths[0], block_out_channels=config.locator.widths),
        ImageProjModel(unet.face_token_width, unet.face_embedding_width, unet.face_tokens),
        AudioProjModel(
            2 * audio.window + 1, audio.num_layers, audio.layer_width, audio.hidden_width,
            audio.token_width, audio.num_tokens,
        ),
        AutoencoderKL(
            block_out_channels=tuple(vae.ch * m for m in vae.ch_mult),
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=vae.num_res_blocks, norm_num_groups=32, latent_channels=4,
        ).eval(),
        Wav2VecModel(Wav2Vec2Config(**width.wav2vec, attn_implementation="eager")).eval(),
    )  # fmt: skip
    prefixes = ("reference_unet.", "denoising_unet.", "face_locator.", "imageproj.", "audioproj.",
                "vae.", "wav2vec.")  # fmt: skip
    for net, prefix in zip(vars(nets).values(), prefixes, strict=True):
        seed(net, prefix)
        net.requires_grad_(False)
    return nets


def hear(nets: Nets, out: dict[str, Tensor]) -> None:
    """Features, windows and tokens of the sound."""
    wave = sound()
    normalise = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16000, padding_value=0.0, do_normalize=True,
        return_attention_mask=False,
    )  # fmt: skip
    values = normalise(wave.numpy(), sampling_rate=16000).input_values
    heard = torch.from_numpy(np.squeeze(values)).float()
    count = math.ceil(len(heard) / 16000 * 25)
    heard = nn.functional.pad(heard, (0, -count % FRAMES * 640))
    count += -count % FRAMES
    layers = nets.encoder(heard[None], seq_len=count, output_hidden_states=True).hidden_states[1:]
    features = torch.stack(layers, dim=1)[0].transpose(0, 1).contiguous()
    places = (torch.arange(count)[:, None] + torch.arange(-2, 3)).clamp(0, count - 1)
    out["audio_features"] = features
    out["audio_windows"] = features[places][:2].contiguous()
    out["audio_tokens"] = nets.sound(features[places][None])


def resized(image: Image.Image, size: int) -> Tensor:
    """As their data loader resizes."""
    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    made: Tensor = transforms.Compose(steps)(image)
    return made


def look(nets: Nets, out: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
    """Picture, region and masks of every level."""
    pixels = (picture() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    portrait = resized(Image.fromarray(pixels), SIZE) * 2 - 1
    points = landmarks(list(masks_of_theirs.lip_ids)).numpy()
    masks_of_theirs.get_landmark = lambda file: (points, *pixels.shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        masks_of_theirs.get_mask("x.png", folder, 1.2)
        region = resized(Image.open(Path(folder, "x_face_mask.png")).convert("RGB"), SIZE)
        files = {k: Image.open(Path(folder, f"x_sep_{v}.png")) for k, v in MASK_FILES.items()}
        out["masks"] = torch.stack([torch.from_numpy(np.array(m)) for m in files.values()])
        levels = {
            k: [resized(m, SIZE // s).view(1, -1) for s in (8, 16, 32, 64)]
            for k, m in files.items()
        }
    for level in range(4):
        out[f"mask_level_{level}"] = torch.cat([levels[k][level] for k in MASK_FILES])
    out["region"] = (region[:1, ::2, ::2] * 255).round().to(torch.uint8).contiguous()
    out["pixels"] = ((portrait[:, ::2, ::2] + 1) * 127.5).round().to(torch.uint8)
    out["locator"] = nets.locator(region[None, :, None])[:, :8, 0].contiguous()
    out["portrait_latents"] = nets.vae.encode(portrait[None]).latent_dist.mean * 0.18215
    return portrait, region, levels


def forward(
    nets: Nets, region: Tensor, levels: dict[str, list[Tensor]], out: dict[str, Tensor]
) -> None:
    """ReferenceNet's features at two places and one forward at three timesteps."""
    tokens = out["image_tokens"]
    control = {"do_classifier_free_guidance": True, "batch_size": 1, "fusion_blocks": "full"}
    writer = ReferenceAttentionControl(nets.reference, mode="write", **control)
    reader = ReferenceAttentionControl(nets.denoiser, mode="read", **control)
    pictures = torch.cat([out["portrait_latents"], draw("motion", MOTION, 4, LATENT, LATENT)])
    nets.reference(
        pictures.repeat(2, 1, 1, 1), torch.tensor(0), encoder_hidden_states=tokens,
        return_dict=False,
    )  # fmt: skip
    reader.update(writer)
    net = nets.denoiser
    for name, block in (("bank_down0", net.down_blocks[0].attentions[0]),
                        ("bank_up3", net.up_blocks[3].attentions[2])):  # fmt: skip
        out[name] = block.transformer_blocks[0].bank[0][:, ::8].clone()
    seen: dict[str, Tensor] = {}
    hooks = [
        net.down_blocks[0].motion_modules[1].register_forward_hook(
            lambda m, i, o: seen.__setitem__("motion", o.clone())
        ),
        net.mid_block.audio_modules[0].register_forward_hook(
            lambda m, i, o: seen.__setitem__("audio", getattr(o, "sample", o[0]).clone())
        ),
    ]
    where = nets.locator(region[None, None].repeat(1, FRAMES, 1, 1, 1).transpose(1, 2))
    heard = out["audio_tokens"][:, :FRAMES]
    given = {
        f"{k}_mask": [m.repeat(2 * FRAMES, 1) for m in of_levels] for k, of_levels in levels.items()
    }

    def run(timestep: int, weights: tuple[float, ...]) -> Tensor:
        made = net(
            torch.cat([draw("latents", 1, 4, FRAMES, LATENT, LATENT)] * 2), torch.tensor(timestep),
            encoder_hidden_states=tokens, mask_cond_fea=torch.cat([torch.zeros_like(where), where]),
            audio_embedding=torch.cat([torch.zeros_like(heard), heard]),
            motion_scale=list(weights), return_dict=False, **given,
        )  # fmt: skip
        return made[0].transpose(1, 2).contiguous()

    for timestep in TIMESTEPS:
        out[f"prediction_{timestep}"] = run(timestep, (1.0, 1.0, 1.0))
        if timestep == TIMESTEPS[1]:
            inner = seen["motion"].transpose(1, 2)
            out["down0_motion1"] = inner[:, :, ::2, ::4, ::4].contiguous()
            out["mid_audio"] = seen["audio"].transpose(1, 2).contiguous()
    out["prediction_weighted"] = run(TIMESTEPS[1], MOTION_WEIGHTS)[1:].contiguous()
    for hook in hooks:
        hook.remove()
    reader.clear()
    writer.clear()


def film(
    nets: Nets, portrait: Tensor, region: Tensor, levels: dict[str, list[Tensor]], steps: int,
    out: dict[str, Tensor],
) -> None:  # fmt: skip
    """Latents of two clips after the first and the last step, and the last frame."""
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
        steps_offset=1, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )  # fmt: skip
    out["alphas"] = scheduler.alphas_cumprod[::10].float()
    pipeline = FaceAnimatePipeline(
        vae=nets.vae, reference_unet=nets.reference, denoising_unet=nets.denoiser,
        face_locator=nets.locator, scheduler=scheduler, image_proj=nets.face,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    generator, latents = torch.manual_seed(42), []
    before, video = portrait[None].repeat(MOTION, 1, 1, 1), None
    given = {
        f"pixel_values_{k}_mask": [m.repeat(FRAMES, 1) for m in of_levels]
        for k, of_levels in levels.items()
    }
    embedding = draw("embedding", 1, nets.face.proj.in_features)
    for clip in range(2):
        seen: list[Tensor] = []
        video = pipeline(
            ref_image=torch.cat([portrait[None], before])[None],
            audio_tensor=out["audio_tokens"][:, clip * FRAMES : (clip + 1) * FRAMES],
            face_emb=embedding, face_mask=region[None], width=SIZE, height=SIZE,
            video_length=FRAMES, num_inference_steps=steps, guidance_scale=3.5,
            generator=generator, motion_scale=[1.0, 1.0, 1.0],
            callback=lambda i, t, x, seen=seen: seen.append(x.clone()), **given,
        ).videos  # fmt: skip
        before = video[0].transpose(0, 1)[-MOTION:] * 2 - 1
        latents.append(torch.cat(seen).transpose(1, 2)[[0, -1]])
    out["video_latents"] = torch.stack(latents).contiguous()
    assert video is not None
    out["video_last_frame"] = video[0][:, -1, ::4, ::4].contiguous()


@torch.no_grad()
def main() -> None:
    """Run their code and write the fixture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("width", choices=WIDTHS)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    width, out = WIDTHS[args.width](), {}
    nets = build(width)
    hear(nets, out)
    portrait, region, levels = look(nets, out)
    embedding = draw("embedding", 1, width.config.unet.face_embedding_width)
    out["image_tokens"] = torch.cat([nets.face(torch.zeros_like(embedding)), nets.face(embedding)])
    forward(nets, region, levels, out)
    film(nets, portrait, region, levels, width.steps, out)
    if args.width != "tiny":
        out = {name: thinned(tensor) for name, tensor in out.items()}
    save_file({name: tensor.contiguous() for name, tensor in out.items()}, args.output)


if __name__ == "__main__":
    main()
