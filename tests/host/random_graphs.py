"""Prompts made by chance of the pack's nodes and core's, by what their sockets and widgets say."""

from __future__ import annotations

import math
import random
from typing import Any

from client import Prompt
from prompts import Info, choices, inputs_of, is_widget

CORE = (
    "AudioConcat", "BasicGuider", "BasicScheduler", "CFGGuider", "ConditioningCombine",
    "ConditioningConcat", "ConditioningSetMask", "ConditioningSetTimestepRange",
    "ConditioningZeroOut", "CreateVideo", "DisableNoise", "DualCFGGuider", "EasyCache",
    "EmptyAudio", "EmptyImage", "EmptyLatentImage", "FeatherMask", "FlipSigmas", "FreeU",
    "GetVideoComponents", "GrowMask", "HyperTile", "ImageBatch", "ImageFromBatch", "ImageInvert",
    "ImageScale", "ImageToMask", "InvertMask", "KSampler", "KSamplerAdvanced", "KSamplerSelect",
    "LatentBatch", "LatentFromBatch", "LazyCache", "MaskToImage", "ModelSamplingDiscrete",
    "PrimitiveFloat", "PrimitiveInt", "RandomNoise", "RepeatImageBatch", "RepeatLatentBatch",
    "RescaleCFG", "SamplerCustomAdvanced", "SetLatentNoiseMask", "SolidMask", "TrimAudioDuration",
    "VAEDecode", "VAEEncode",
)  # fmt: skip
"""Nodes of core that give what the pack's sockets take, and need no file."""

SHOWN_BY = "PreviewAny"

SMALL = {
    "steps": (1, 2), "start_at_step": (0, 1), "end_at_step": (1, 3), "start": (0.0, 0.02),
    "duration": (0.0, 0.3), "start_index": (0.0, 0.3), "amount": (1, 9), "batch_size": (1, 4),
    "width": (16, 64), "height": (16, 64), "clip_index": (0, 2), "length": (1, 9),
    "batch_index": (0, 3), "expand": (-4, 4), "value": (0, 3),
}  # fmt: skip
"""Ranges of numbers of which nothing large or slow is to be made."""

TEXTS = ("0:0.2, 5:1.1", "0:1, 2:0.1") * 20 + ("", "fast", "0:1, 0:2", "0:99")

_OUTSIDE = 0.002
"""How often a number lies out of its range."""
_OPEN, _OPTIONAL_OPEN, _PARTS_OPEN = 0.004, 0.65, 0.1
"""How often a socket stays open: a required one, an optional one, an optional MODEL or VAE."""


class RandomGraph:
    """A prompt that is the same for the same seed and host.

    Args:
        info: object_info of the host.
        ours: ids of the pack's nodes.
        model: file that the model loader is to take.
        seed: of the chance.
    """

    def __init__(self, info: Info, ours: frozenset[str], model: str, seed: int) -> None:
        self._info, self._model = info, model
        self._chance = random.Random(seed)
        self._nodes = sorted({*ours, *CORE} & set(info))
        self.prompt: Prompt = {}
        self._given: list[tuple[str, list[Any]]] = []
        for name in self._chance.sample(sorted(ours), self._chance.randint(1, 2)):
            self._show(self._add(name, 0))

    def _show(self, node_id: str) -> None:
        outputs = self._info[self.prompt[node_id]["class_type"]]["output"]
        if outputs:
            source = [node_id, self._chance.randrange(len(outputs))]
            self._put(SHOWN_BY, {"source": source})

    def _add(self, class_type: str, depth: int) -> str:
        values: dict[str, Any] = {}
        for name, kind, options, required in inputs_of(self._info[class_type]):
            if is_widget(kind, options):
                values[name] = self._widget(name, kind, options)
                continue
            optional = _PARTS_OPEN if kind in ("MODEL", "VAE") else _OPTIONAL_OPEN
            if self._chance.random() < (_OPEN if required else optional):
                continue
            source = self._source(str(kind), depth)
            if source is not None:
                values[name] = source
        node_id = self._put(class_type, values)
        for slot, kind in enumerate(self._info[class_type]["output"]):
            self._given.append((str(kind), [node_id, slot]))
        return node_id

    def _put(self, class_type: str, values: dict[str, Any]) -> str:
        node_id = str(len(self.prompt) + 1)
        self.prompt[node_id] = {"class_type": class_type, "inputs": values}
        return node_id

    def _source(self, kind: str, depth: int) -> list[Any] | None:
        """An output of a type: of a node that is there, or of a new one."""
        kinds = kind.split(",")
        there = [source for given, source in self._given if given in kinds]
        if there and self._chance.random() < min(0.9, 0.55 + 0.1 * depth):
            return self._chance.choice(there)
        new = [name for name in self._nodes if set(kinds) & set(self._info[name]["output"])]
        if depth >= 2:
            # The graph is to come to an end: what is there, or nodes with few sockets.
            if there:
                return self._chance.choice(there)
            new.sort(key=lambda name: self._sockets(name, kinds))
            new = new[:1]
        if depth >= 9 or not new:
            return None
        name = self._chance.choice(new)
        node_id = self._add(name, depth + 1)
        slots = [i for i, given in enumerate(self._info[name]["output"]) if given in kinds]
        return [node_id, self._chance.choice(slots)]

    def _sockets(self, name: str, kinds: list[str]) -> tuple[bool, int]:
        """Whether a node needs what it gives, and how many sockets must be connected."""
        inputs = [str(kind) for _, kind, options, required in inputs_of(self._info[name])
                  if required and not is_widget(kind, options)]  # fmt: skip
        return bool(set(kinds) & set(inputs)), len(inputs)

    def _widget(self, name: str, kind: Any, options: dict[str, Any]) -> Any:
        offered = choices(kind, options)
        if offered is not None:
            usual = options.get("default", offered[0] if offered else "")
            rare = self._chance.random() < 0.15
            return (
                self._model
                if self._model in offered
                else (self._chance.choice(offered) if rare and offered else usual)
            )
        if kind == "BOOLEAN":
            return self._chance.random() < 0.5
        if kind == "STRING":
            return self._chance.choice(TEXTS)
        least, most = options.get("min", 0), options.get("max", 10)
        low, high = SMALL.get(name, (least, most))
        low, high = max(low, least), min(high, most)
        if low > high:  # a widget of that name and of another meaning
            low, high = least, most
        if self._chance.random() < _OUTSIDE:
            return most + 1 if self._chance.random() < 0.5 else least - 1
        usual = options.get("default")
        if name not in SMALL and usual is not None and self._chance.random() < 0.85:
            return usual
        number = self._chance.uniform(low, high)
        return math.floor(number) if kind == "INT" else round(number, 3)
