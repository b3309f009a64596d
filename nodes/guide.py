"""GUIDERs over clips: EMO's own with apart scales, and any guider made ready for the next clip."""

from __future__ import annotations

import copy
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..emo_core.conditions import CONDITIONS, Conditions
from .compat import Schema, io
from .conds import Conditioning
from .host import parts_of


class AudioGuider(comfy.samplers.CFGGuider):
    """Guidance with the sound's scale apart from that of the other conditions.

    prediction = nothing + scale * (all but the sound - nothing) + audio_scale * (all - all but the
    sound), which is emo_core.sampling.Guidance. The paper never mentions guidance.
    """

    def set_scales(self, scale: float, audio_scale: float) -> None:
        """Both scales."""
        self.scale, self.audio_scale = scale, audio_scale

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        """Run the three branches as one batch and combine them."""
        options = model_options or {}
        branches = [self.conds[name] for name in ("negative", "middle", "positive")]
        nothing, silent, everything = comfy.samplers.calc_cond_batch(
            self.inner_model, branches, x, timestep, options
        )
        # Through the host, so that patches of guidance and samplers that read it see this one too.
        out = comfy.samplers.cfg_function(
            self.inner_model, silent, nothing, self.scale, x, timestep, model_options=options,
            cond=branches[1], uncond=branches[0],
        )  # fmt: skip
        return torch.as_tensor(out + self.audio_scale * (everything - silent))


def audio_guider(
    model: Any, positive: Conditioning, scale: float, audio_scale: float
) -> AudioGuider:
    """An AudioGuider whose three branches are made of EMOConditioning's positive.

    Raises:
        ValueError: if it is another CONDITIONING, or EMO Conditioning's negative.
    """
    if not positive or not all("emo_sees" in entry for _, entry in positive):
        raise ValueError("EMO Guider needs the positive of EMO Conditioning; connect it")
    if not any(entry["emo_sees"] for _, entry in positive):
        raise ValueError("the negative of EMO Conditioning came to positive; connect its positive")
    guider = AudioGuider(model)
    sees = {"negative": frozenset[str](), "middle": CONDITIONS - {"audio"}, "positive": CONDITIONS}
    # With whatever else an entry carries: a range of steps, a mask, hooks.
    guider.inner_set_conds({
        name: [[tensor, {**entry, "emo_sees": seen}] for tensor, entry in positive]
        for name, seen in sees.items()
    })
    guider.set_scales(scale, audio_scale)
    return guider


def guider_for(guider: Any, model: Any, conditions: Conditions) -> Any:
    """A copy of a GUIDER whose branches see another clip; what each branch sees is kept.

    Args:
        guider: the host's object, which is left as it is.
        model: MODEL of the node, for the check that both are of one model.
        conditions: of the clip.

    Raises:
        ValueError: if its conditions are not EMO's, or it samples another model.
    """
    check_guider(guider, model)
    out = copy.copy(guider)
    out.original_conds = {
        name: [{**cond, "emo_conditions": conditions} for cond in conds]
        for name, conds in guider.original_conds.items()
    }
    return out


def check_guider(guider: Any, model: Any) -> None:
    """Say before any work what guider_for() could not do.

    Raises:
        ValueError: if its conditions are not EMO's or the wrong way round, or it samples another
            model.
    """
    kind = type(guider).__name__
    patcher, branches = (getattr(guider, n, None) for n in ("model_patcher", "original_conds"))
    if patcher is None or patcher.model is not model.model:
        raise ValueError(
            f"the {kind} samples another MODEL than the one connected to model; make the guider "
            "with the MODEL of EMO Conditioning"
        )
    if patcher.patches_uuid != model.patches_uuid:
        raise ValueError(
            f"the {kind} samples the MODEL with other LoRAs or weight patches than the one "
            "connected to model; connect the same MODEL to both"
        )
    if not branches:
        raise ValueError(f"the {kind} keeps its conditions where EMO cannot replace them clip by "
                         "clip; use EMO Guider or a guider of core")
    for name, conds in branches.items():
        if not all("emo_sees" in cond for cond in conds):
            raise ValueError(
                f"the {kind} has a condition {name!r} that is not EMO's; connect the conditionings "
                "of EMO Conditioning to it"
            )
    seen = {name: any(cond["emo_sees"] for cond in conds) for name, conds in branches.items()}
    if seen.get("negative") and not seen.get("positive", True):
        raise ValueError(
            f"positive and negative of EMO Conditioning came to the {kind} the wrong way round; "
            "connect each to its own"
        )


class EMOGuider(io.ComfyNode):
    """Guidance with the sound's scale apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the node takes and gives."""
        return Schema(
            node_id="EMOGuider",
            display_name="EMO Guider",
            category="EMO/advanced",
            description="Guidance with two scales, one for the sound alone and one for portrait, "
            "region and speed; for EMO Sampler, Motion Frame Looper and SamplerCustomAdvanced.",
            search_aliases=["emo", "guider", "cfg", "audio guidance"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of EMO Conditioning, or of EMO Model Loader with "
                    "the same patches.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The positive of EMO Conditioning, of any clip; a looper "
                    "puts each clip's own in its place.",
                ),
                io.Float.Input(
                    "cfg", default=1.6, min=0.0, max=30.0, step=0.1,
                    tooltip="How strongly the film follows portrait, region and speed, 0 to 30: 1 "
                    "is no guidance of these; raise it when they count too little.",
                ),
                io.Float.Input(
                    "audio_cfg", default=1.6, min=0.0, max=30.0, step=0.1,
                    tooltip="How strongly the film follows the sound, 0 to 30: 1 is no guidance "
                    "of it, 0 leaves it out; raise it when the sound counts too little, lower it "
                    "when too much.",
                ),
            ],
            outputs=[
                io.Guider.Output(
                    "guider", display_name="guider",
                    tooltip="A GUIDER for the guider sockets of EMO's samplers and of core "
                    "SamplerCustomAdvanced.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, positive: Any, cfg: float, audio_cfg: float) -> io.NodeOutput:
        """Make it."""
        parts_of(model)
        return io.NodeOutput(audio_guider(model, positive, cfg, audio_cfg))
