"""EMODecodeVideo as people use it: latents and a sound become a film that Save Video keeps."""

import gc
import os
import weakref
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import av
import pytest
import torch

from emo_core.sound_files import read_sound
from emo_core.video import read_video


@pytest.fixture
def node(pack):
    return import_module(f"{pack.__name__}.output")


@pytest.fixture
def folder(pack, tmp_path, monkeypatch):
    """The host's temp folder, which may not exist yet."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.fixture
def vae(pack):
    """The host's VAE around its own networks, one pixel a latent, so that odd sizes can come."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    widths = {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3,
              "ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [],
              "dropout": 0.0}  # fmt: skip
    config = {"params": {"ddconfig": widths, "embed_dim": 4}}
    draw = torch.Generator().manual_seed(0)
    state = AutoencoderKL(**config["params"]).state_dict()
    state = {name: initial(name, weight, draw) for name, weight in state.items()}
    return comfy.sd.VAE(sd=state, config=config)


def initial(name, weight, draw):
    """What a layer of this name starts with; the host's layers start with anything."""
    if weight.ndim > 1:
        return torch.randn(weight.shape, generator=draw) * (0.5 / weight[0].numel() ** 0.5)
    return torch.full(weight.shape, float("norm" in name and name.endswith("weight")))


@pytest.fixture
def film(node, folder, run, vae):
    """Decode with the VAE above; what is given replaces the defaults."""

    def make(frames=7, size=(16, 16), **inputs):
        torch.manual_seed(1)
        samples = inputs.pop("samples", torch.randn(frames, 4, *size))
        inputs = {"vae": vae, "fps": 25.0, "clip_frames": 3} | inputs
        return run(node.EMODecodeVideo, latent={"samples": samples}, **inputs)[0]

    return make


def path_of(video):
    return Path(video.get_stream_source())


def smooth(frames, seed):
    """Latents whose pictures H.264 keeps: little changes from one pixel to the next."""
    coarse = torch.randn(frames, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (16, 16), mode="bicubic")


def tone(samples, rate, channels=1, batch=1):
    time = torch.arange(samples) / rate
    waves = [0.5 * torch.sin(2 * torch.pi * (200 + 50 * c) * time) for c in range(channels)]
    return {"waveform": torch.stack(waves)[None].repeat(batch, 1, 1), "sample_rate": rate}


class Watched:
    """The host's VAE, and how many decoded frames were in memory whenever it was called."""

    def __init__(self, vae):
        self.vae, self.sizes, self.alive, self._pieces = vae, [], [], []
        self.latent_channels = vae.latent_channels

    def decode(self, latents):
        self.alive.append(sum(n for piece, n in self._pieces if piece() is not None))
        pictures = self.vae.decode(latents)
        self.sizes.append(len(latents))
        self._pieces.append((weakref.ref(pictures.untyped_storage()), len(latents)))
        return pictures


def test_the_sockets_are_what_saved_workflows_count_on(node):
    schema = node.EMODecodeVideo.define_schema()
    assert (schema.node_id, schema.category) == ("EMODecodeVideo", "EMO")
    assert [(i.id, i.io_type, i.optional) for i in schema.inputs] == [
        ("vae", "VAE", False), ("latent", "LATENT", True), ("audio", "AUDIO", True),
        ("fps", "FLOAT", False), ("clip_frames", "INT", False), ("kept_film", "COMBO", True),
    ]  # fmt: skip
    assert [(o.id, o.io_type) for o in schema.outputs] == [("video", "VIDEO")]
    schema.validate()
    assert all(each.tooltip.endswith(".") for each in [*schema.inputs, *schema.outputs])


def test_the_film_is_what_the_vae_decodes(film, vae, folder):
    samples = smooth(7, 3)
    video = film(samples=samples, audio=tone(12348, 44100, 2))
    components = video.get_components()
    assert (len(components.images), components.frame_rate) == (7, 25)
    error = (components.images - vae.decode(samples).detach()).movedim(-1, 1)
    assert torch.nn.functional.avg_pool2d(error, 4).abs().mean() < 0.02
    waveform, rate = read_sound(path_of(video))
    assert (tuple(waveform.shape), rate) == ((2, 12348), 44100)
    assert [path.suffix for path in folder.iterdir()] == [".mp4"]


def test_save_video_keeps_every_frame_and_the_sound(film, tmp_path):
    """What core's Save Video calls."""
    video = film(13, audio=tone(8320, 16000))
    saved = tmp_path / "saved.mp4"
    video.save_to(str(saved), metadata={"prompt": {"1": {}}})
    frames, fps, metadata = read_video(saved)
    assert (len(frames), fps, metadata["prompt"]) == (13, 25, '{"1": {}}')
    assert torch.equal(frames, read_video(path_of(video))[0])
    waveform, rate = read_sound(saved)
    assert (tuple(waveform.shape), rate) == ((1, 8320), 16000)
    with av.open(str(saved)) as file:
        stream = file.streams.video[0]
        assert [frame.time for frame in file.decode(stream)] == pytest.approx(
            [i / 25 for i in range(13)]
        )


def test_the_pieces_do_not_change_the_film(film):
    films = [read_video(path_of(film(7, clip_frames=n)))[0] for n in (1, 3, 7, 256)]
    for other in films[1:]:
        # libx264 does not always make the same of the same pictures.
        assert (films[0].int() - other.int()).abs().float().mean() < 3


@pytest.mark.parametrize("frames", [9, 90])
def test_memory_does_not_grow_with_the_film(film, vae, frames):
    watched = Watched(vae)
    video = film(frames, vae=watched)
    assert watched.sizes == [3] * (frames // 3)
    assert max(watched.alive) == 0  # the piece before is gone when the next is decoded
    assert len(read_video(path_of(video))[0]) == frames


def test_a_long_sound_is_cut_and_a_short_one_left(film, caplog):
    long = path_of(film(7, audio=tone(16000, 16000)))
    assert read_sound(long)[0].shape[1] == 7 * 640
    assert "0.72 s longer than the film of 7 frames" in caplog.text
    caplog.clear()
    assert read_sound(path_of(film(7, audio=tone(1600, 16000))))[0].shape[1] == 1600
    assert not caplog.text
    with pytest.raises(ValueError, match="has no sound track"):
        read_sound(path_of(film(1, audio=tone(2, 8))))  # no whole sample in 0.04 s


@pytest.mark.parametrize(
    ("audio", "channels", "rate"),
    [
        (tone(6000, 22222), 1, 24000),
        (tone(48000, 192000, 6), 6, 96000),
        (tone(2000, 8000, 9), 1, 8000),
        (tone(2000, 8000, 2, batch=3), 2, 8000),
    ],
)
def test_sounds_of_every_kind(film, audio, channels, rate):
    waveform, got = read_sound(path_of(film(7, audio=audio)))
    assert (waveform.shape[0], got) == (channels, rate)
    seconds = audio["waveform"].shape[-1] / audio["sample_rate"]
    assert waveform.shape[1] / got == pytest.approx(min(seconds, 0.28), abs=0.001)


def test_without_a_sound_the_film_is_silent(film):
    video = film(5)
    assert video.get_components().audio is None
    with pytest.raises(ValueError, match="has no sound track"):
        read_sound(path_of(video))


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (25.0, Fraction(25)),
        (29.97, Fraction(30000, 1001)),
        (30000 / 1001, Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (12.5, Fraction(25, 2)),
        (30.0, Fraction(30)),
        (7.3, Fraction(73, 10)),
    ],
)
def test_frame_rates_are_exact(node, film, fps, exact):
    assert node.frame_rate(fps) == exact
    assert film(4, fps=fps).get_components().frame_rate == exact


def test_odd_and_tiny_pictures(film, caplog):
    for height, width in ((17, 15), (16, 9), (1, 1), (2, 2)):
        caplog.clear()
        video = film(2, size=(height, width))
        even = (width + width % 2, height + height % 2)
        assert video.get_dimensions() == even
        assert ("needs even sides" in caplog.text) == (even != (width, height))


def test_latents_of_other_precisions(film):
    samples = smooth(4, 4)
    plain = read_video(path_of(film(samples=samples)))[0].int()
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        other = read_video(path_of(film(samples=samples.to(dtype))))[0].int()
        assert (plain - other).abs().float().mean() < 3


def test_latents_that_are_none_are_refused(film, vae, folder):
    bad = torch.randn(3, 4, 8, 8)
    bad[1, 2] = float("nan")
    for samples, sentence in (
        (torch.randn(1, 4, 3, 8, 8), r"\[frames, channels, height, width\], got \[1, 4, 3, 8, 8\]"),
        (torch.randn(3, 16, 8, 8), "has 16 channels and the VAE decodes 4"),
        (torch.randn(0, 4, 8, 8), "holds no frames"),
        (bad, "so sampling failed: lower cfg"),
    ):
        with pytest.raises(ValueError, match=sentence):
            film(samples=samples)
    with pytest.raises(ValueError, match="there is no VAE"):
        film(vae=None)
    with pytest.raises(ValueError, match="fps must be a number above 0"):
        film(fps=float("nan"))
    with torch.no_grad():
        vae.first_stage_model.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="start ComfyUI with --fp32-vae"):
        film()
    assert not folder.exists() or not list(folder.iterdir())


def test_sounds_that_are_none_are_refused_before_anything_is_decoded(film, vae):
    watched = Watched(vae)
    for audio, sentence in (
        ({"waveform": torch.zeros(1, 1, 0), "sample_rate": 8000}, "is empty"),
        ({"waveform": torch.full((1, 1, 9), float("nan")), "sample_rate": 8000}, "NaN"),
        ("a song", "without waveform and sample_rate"),
    ):
        with pytest.raises(ValueError, match=sentence):
            film(vae=watched, audio=audio)
    assert watched.sizes == []


def test_an_interruption_leaves_nothing_and_the_next_film_is_whole(film, folder, vae):
    import comfy.model_management as host

    class Impatient(Watched):
        def decode(self, latents):
            if len(self.sizes) == 1:
                host.interrupt_current_processing()
            return super().decode(latents)

    watched = Impatient(vae)
    with pytest.raises(host.InterruptProcessingException):
        film(30, vae=watched)
    assert len(watched.sizes) == 2
    assert list(folder.iterdir()) == []
    assert len(film(5).get_components().images) == 5


def test_a_full_disk_gives_a_sentence_and_leaves_nothing(film, folder):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"cannot be written .*--temp-directory"):
            film(60, size=(32, 32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(folder.iterdir()) == []


def test_films_are_files_of_their_own_that_stay(film):
    paths = [path_of(film(2)) for _ in range(2)]
    gc.collect()
    assert len(set(paths)) == 2
    assert all(os.path.isfile(path) for path in paths)


def test_the_models_own_vae_decodes(film, model_and_vae):
    _, vae = model_and_vae
    samples = torch.randn(5, 4, 4, 4)
    video = film(samples=samples, vae=vae, audio=tone(3200, 16000))
    assert len(video.get_components().images) == 5
    wanted = vae.decode(samples)
    assert video.get_dimensions() == (wanted.shape[2], wanted.shape[1])
