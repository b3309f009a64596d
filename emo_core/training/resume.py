"""An optimizer's state by the names of its parameters.

torch numbers the parameters of an optimizer by the order in which their modules were registered. A
model that registers the same modules in another order would resume with the moments of other
weights, so checkpoints carry the names beside the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

NameGroups = list[list[str]]
"""Names of the parameters of each group of the optimizer, in its order."""


def parameter_groups(parameters: Mapping[str, Tensor]) -> NameGroups:
    """Part parameters into those with weight decay (matrices, kernels) and those without."""
    return [
        [name for name, tensor in parameters.items() if tensor.dim() > 1],
        [name for name, tensor in parameters.items() if tensor.dim() <= 1],
    ]


def saved_names(state: Mapping[str, Any]) -> NameGroups:
    """Return the names a checkpoint was saved with.

    Args:
        state: of `Trainer.save`. Earlier ones have no names, but their averaged weights are
            those of the trained parameters in the order in which the optimizer got them.
    """
    names: NameGroups = state.get("names") or parameter_groups(state["averaged"])
    return names


def optimizer_by_order(
    saved: Mapping[str, Any], names: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Renumber the state of an optimizer for parameters that come in another order.

    Args:
        saved: an optimizer's `state_dict()`.
        names: of its parameters, group by group in its order.
        wanted: the same names in the order of the optimizer that is to load it.

    Returns:
        A `state_dict()` for that optimizer.

    Raises:
        ValueError: if the groups do not have the same parameters.
    """
    by_name: dict[str, Any] = {}
    groups = []
    first = 0
    for group, old, new in zip(saved["param_groups"], names, wanted, strict=True):
        if sorted(old) != sorted(new):
            other = sorted(set(old) ^ set(new))
            raise ValueError(
                f"the checkpoint trains other parameters than the model has ({len(other)} differ, "
                f"such as {other[0] if other else 'none'}); begin the stage in an empty folder"
            )
        by_name |= {
            name: saved["state"][number]
            for name, number in zip(old, group["params"], strict=True)
            if number in saved["state"]
        }
        groups.append({**group, "params": list(range(first, first + len(new)))})
        first += len(new)
    order = [name for group in wanted for name in group]
    state = {number: by_name[name] for number, name in enumerate(order) if name in by_name}
    return {"state": state, "param_groups": groups}
