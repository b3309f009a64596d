"""A node of another pack, which the test server loads too: it writes down each call of a MODEL."""

import time
from pathlib import Path

import comfy.model_management
import folder_paths

HOLD_SECONDS = 120


class CountCalls:
    """MODEL in and out; a line in a file of the output folder for each call that has begun."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "count", "tests"

    @classmethod
    def INPUT_TYPES(cls):
        """Sockets and widgets."""
        return {"required": {
            "model": ("MODEL",),
            "file": ("STRING", {"default": "calls.txt"}),
            "hold_at": ("INT", {"default": 0, "min": 0}),
            "run_out_at": ("INT", {"default": 0, "min": 0}),
        }}  # fmt: skip

    def count(self, model, file, hold_at, run_out_at):
        """Calls count from 1: `hold_at` waits for an interruption, `run_out_at` has no memory."""
        path, begun = Path(folder_paths.get_output_directory()) / file, []

        def counted(apply, given):
            begun.append(time.monotonic())
            with path.open("a") as lines:
                lines.write(f"{len(begun)}\n")
            if len(begun) == hold_at:
                while not comfy.model_management.processing_interrupted():
                    assert time.monotonic() < begun[-1] + HOLD_SECONDS, "nobody interrupted"
                    time.sleep(0.01)
            if len(begun) == run_out_at:
                raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory.")
            return apply(given["input"], given["timestep"], **given["c"])

        model = model.clone()
        model.set_model_unet_function_wrapper(counted)
        return (model,)


NODE_CLASS_MAPPINGS = {"CountCalls": CountCalls}
