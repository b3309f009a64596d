"""EMO Portrait: ComfyUI asks this file for the nodes and the help pages."""

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint():
    """The pack's nodes; imported here, so that nothing but ComfyUI needs ComfyUI."""
    from .nodes import EMOExtension

    return EMOExtension()
