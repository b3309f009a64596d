"""The embedded model, emo-tiny.safetensors: network, VAE and audio encoder in one file."""
