"""EMO (Tian et al., ECCV 2024) in PyTorch. It never imports ComfyUI; everything runs from Python.

Letters in the shapes: B videos, R rows of a batch (B times the branches of guidance), F frames of a
clip or a film, n motion frames, C channels, h w rows and columns of latents, H W of pictures,
N = h * w places, L layers and D width of sound features, T audio tokens of a frame.
"""
