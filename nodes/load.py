"""EMO Model Loader: one checkpoint to a MODEL and its VAE."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
import folder_paths
import torch
from comfy.latent_formats import LatentFormat
from torch import nn

from ..emo_core.audio_encoder import build_audio_encoder
from ..emo_core.clip_keys import file_digest
from ..emo_core.config import EMOConfig
from ..emo_core.hallo_files import ORIGIN, Variant
from ..emo_core.model import Conditioner
from ..emo_core.vae_config import VAEConfig
from ..emo_core.weight_files import WeightFile
from ..emo_core.weight_fit import check_fit
from ..emo_core.weights import (
    WrongKind,
    audio_encoder_config,
    find_checkpoint,
    open_checkpoint,
    skeleton,
    training_record,
)
from .backbone import EMOModel
from .compat import Schema, io
from .example import example_portrait
from .foreign import way_out
from .host import ATTACHMENT, EMOParts, Place, file_stamp, patcher, place_for
from .lora_names import EMOPatcher
from .vae import build_vae, latent_colours, latent_format, weights_of

logger = logging.getLogger(__name__)

BUILT_IN = "emo-tiny (built in)"
FOLDER = "emo"
ENDINGS = (".safetensors", ".pth")
_BACKBONE = "model.denoising_unet."
DTYPES = {
    "auto": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2,
}  # fmt: skip
_VARIANT_OF: dict[str, Variant] = {"from file": "auto", "hallo": "hallo", "hallo2": "hallo2"}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def model_files() -> list[str]:
    """What the loader offers: the built-in model, and the checkpoints in models/emo."""
    names = folder_paths.get_filename_list(FOLDER)
    return [BUILT_IN, *(name for name in names if name.endswith(ENDINGS))]


def model_path(name: str) -> Path:
    """The file of an entry of the loader.

    Raises:
        FileNotFoundError: if it is gone; the folder is named.
    """
    if name == BUILT_IN:
        return find_checkpoint("emo-tiny")
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        folder = folder_paths.get_folder_paths(FOLDER)[0]
        raise FileNotFoundError(
            f"there is no {name} in {folder} any more; put it there or choose another"
        )
    return Path(path)


def load(
    path: Path,
    dtype: torch.dtype | None = None,
    variant: Variant = "auto",
    reproduce: bool = False,
) -> tuple[Any, Any]:
    """MODEL and VAE of a checkpoint; its weights are never in memory twice.

    Args:
        path: an EMO checkpoint, or Hallo's net.pth.
        dtype: of the weights; None for the host's choice.
        variant: of Hallo's weights; see hallo_files.decide().
        reproduce: whether pictures are prepared as Hallo's own program does.

    Returns:
        The host's ModelPatcher and VAE.

    Raises:
        ValueError: if the file is something else or incomplete, or replaced meanwhile, or the
            choices are for other weights; one sentence.
    """
    before = file_stamp(path)
    try:
        file, config = open_checkpoint(path, variant)
    except WrongKind as error:
        advice = way_out(error.kind.name, error.kind.advice)
        raise ValueError(
            f"{path.name} is {error.kind} and not an EMO checkpoint: {advice}"
        ) from None
    _say_variant(path, file, config, variant)
    if reproduce and config.audio.attention != "masked3":
        raise ValueError(
            f"reproduce does what Hallo's own program does, and {config.name} is no such model; "
            "turn it off"
        )
    check_fit(file, skeleton(file, config))
    vae, form = _own_vae(file, config.picture_size)
    place = place_for(file.num_parameters, dtype)
    model = EMOModel(config, form, place)
    _fill(model.diffusion_model, file, _BACKBONE, place)
    out = patcher(model, place, EMOPatcher)
    parts = replace(_parts(file, config, place, reproduce), vae=weights_of(vae))
    if file_stamp(path) != before:  # else kept clips would be filed under weights of another file
        raise ValueError(f"{path.name} was replaced while it was read; queue again")
    out.set_attachments(ATTACHMENT, parts)
    out.add_callback(comfy.patcher_extension.CallbacksMP.ON_CLEANUP, _forget)
    return out, vae


def _say_variant(path: Path, file: WeightFile, config: EMOConfig, variant: Variant) -> None:
    """Say which of Hallo's two sets of weights a file was taken for, and why."""
    if config.audio.attention != "masked3":
        return
    said = file.header.get(ORIGIN, f"taken for {config.name}: its header says so")
    if variant != "auto":
        said = f"taken for {variant}: it was chosen"
    logger.info("%s is %s", path.name, said)


def _forget(model: Any) -> None:
    model.model.forget()


def _parts(file: WeightFile, config: EMOConfig, place: Place, reproduce: bool) -> EMOParts:
    conditioner = Conditioner(config, place.build("meta"))
    _fill(conditioner, file, "model.", place, without=_BACKBONE)
    return EMOParts(
        config, f"{config.name} {digest_of(file.path)[:12]}", digest_of(file.path),
        patcher(conditioner, place), hearing(file), place.compute_dtype,
        training_record(file.header), reproduce,
    )  # fmt: skip


def digest_of(path: Path) -> str:
    """The digest of every byte of a file, which is read again only when it was changed."""
    stat = path.stat()
    return _digest_of(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _digest_of(path: Path, changed: int, size: int) -> str:
    return file_digest(path)


def hearing(file: WeightFile) -> Any:
    """The audio encoder of a checkpoint in a patcher, in single precision; None if it has none."""
    config = audio_encoder_config(file.header)
    if config is None:
        return None
    place = place_for(0, torch.float32)
    build = place.build()
    encoder = build_audio_encoder(config, build.operations, build.dtype, place.offload_device)
    _fill(encoder, file, "audio_encoder.", place)
    return comfy.model_patcher.ModelPatcher(encoder, place.load_device, place.offload_device)


def embedded_hearing() -> Any:
    """The audio encoder of emo-tiny, without the rest of it."""
    return hearing(open_checkpoint("emo-tiny")[0])


def _own_vae(file: WeightFile, size: int) -> tuple[Any, LatentFormat]:
    """The VAE that a checkpoint brings, or None, and the format of the latents it samples."""
    if "vae_config" not in file.header:
        return None, latent_format(None, None)
    config, prefix = VAEConfig.from_json(file.header["vae_config"]), "vae."
    state = {n.removeprefix(prefix): file.read(n) for n in file.shapes if n.startswith(prefix)}
    vae = build_vae(config, state)
    try:
        colours = latent_colours(vae, example_portrait(size), config.scaling_factor)
    except FileNotFoundError as error:
        logger.warning("no preview while sampling: %s", error)
        colours = None
    return vae, latent_format(config, colours)


def _fill(
    module: nn.Module, file: WeightFile, prefix: str, place: Place, without: str | None = None
) -> None:
    """Read all weights behind `prefix`, but those behind `without`, where the host wants them.

    The module's own are without values, so that there is one copy, or the mapped file itself. By
    the names of the file, which check_fit() compared: newer hosts make layers whose own names
    appear only when they are loaded.
    """
    names = [name for name in file.shapes if name.startswith(prefix)]
    state = {
        name.removeprefix(prefix): file.read(name).to(place.offload_device, place.dtype)
        for name in names
        if without is None or not name.startswith(without)
    }
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


class EMOModelLoader(io.ComfyNode):
    """One checkpoint to a MODEL and its VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOModelLoader",
            display_name="EMO Model Loader",
            category="EMO",
            description="Loads an EMO model: the networks that turn a portrait and a sound into "
            "a talking film. emo-tiny is built in and needs no download.",
            search_aliases=["emo", "talking head", "lip sync", "portrait animation"],
            inputs=[
                io.Combo.Input(
                    "model_name", options=model_files(), default=BUILT_IN,
                    tooltip="Which model to load: emo-tiny, which is built in and knows its own "
                    "drawn puppets at 128x128 pixels, or a file in models/emo: an EMO checkpoint, "
                    "or Hallo's net.pth for photographs.",
                ),
                io.Combo.Input(
                    "dtype", options=list(DTYPES), default="auto",
                    tooltip="Precision the weights are kept in; auto lets ComfyUI choose for your "
                    "card, choose fp32 if pictures come out black or speckled, and fp8 to keep "
                    "large weights in half the memory of fp16, a little less exactly.",
                ),
                io.Combo.Input(
                    "variant", options=list(_VARIANT_OF), default="from file", optional=True,
                    tooltip="Which of Hallo's two sets of weights the file holds, since their "
                    "tensors have the same names; 'from file' goes by its header, else by the name "
                    "of file or folder, else takes hallo, and the log says which.",
                ),
                io.Boolean.Input(
                    "reproduce", default=False, optional=True,
                    tooltip="Prepares the portrait as Hallo's own program does: the whole picture "
                    "stretched to a square and not a square cut out of it; for comparisons, with "
                    "EMO Hallo Noise at the looper.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "model_out", display_name="model",
                    tooltip="The model for EMO's nodes and for core samplers, LoRA loaders and "
                    "model patches.",
                ),
                io.Vae.Output(
                    "vae_out", display_name="vae",
                    tooltip="The VAE that the checkpoint brings; a checkpoint without one leaves "
                    "this empty, then connect an SD 1.5 VAE of your own.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None = None, **_: Any) -> str:
        """A file that was replaced is loaded again."""
        if model_name is None:  # linked, and not known before it runs
            return ""
        try:
            return file_stamp(model_path(model_name))
        except OSError:
            return model_name

    @classmethod
    def execute(
        cls, model_name: str, dtype: str, variant: str = "from file", reproduce: bool = False
    ) -> io.NodeOutput:
        """Load it."""
        model, vae = load(model_path(model_name), DTYPES[dtype], _VARIANT_OF[variant], reproduce)
        return io.NodeOutput(model, vae)
