"""EMOExampleInputs: the pack's own portrait and recording."""

from importlib import import_module
from pathlib import Path

import pytest
import torch

from emo_core.pictures import read_picture
from emo_core.sound_files import read_sound

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def module(pack):
    return import_module(f"{pack.__name__}.example")


def test_the_sockets_are_what_saved_workflows_count_on(module):
    schema = module.EMOExampleInputs.define_schema()
    assert (schema.node_id, schema.category, schema.inputs) == ("EMOExampleInputs", "EMO", [])
    assert [(o.id, o.io_type) for o in schema.outputs] == [
        ("portrait", "IMAGE"), ("audio", "AUDIO"),
    ]  # fmt: skip
    schema.validate()
    assert all(output.tooltip.endswith(".") for output in schema.outputs)


def test_they_are_the_repositorys_files_as_the_host_holds_them(module, run):
    portrait, audio = run(module.EMOExampleInputs)
    picture = read_picture(EXAMPLES / "portrait.png")
    assert tuple(portrait.shape) == (1, 128, 128, 3)
    assert torch.equal(portrait[0].permute(2, 0, 1), picture)
    assert portrait.is_contiguous()
    waveform, rate = read_sound(EXAMPLES / "speech.wav")
    assert torch.equal(audio["waveform"], waveform[None])
    assert audio["sample_rate"] == rate


def test_a_missing_file_is_named(module, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"portrait.png is missing; install the pack again"):
        run(module.EMOExampleInputs)
    (tmp_path / "portrait.png").write_bytes((EXAMPLES / "portrait.png").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"speech.wav is missing"):
        run(module.EMOExampleInputs)


def test_the_files_are_shipped():
    """Nothing in .comfyignore leaves examples/ out of the registry's package."""
    ignored = (EXAMPLES.parent / ".comfyignore").read_text().splitlines()
    rules = [line.strip() for line in ignored if line.strip() and not line.startswith("#")]
    assert not [rule for rule in rules if "examples" in rule or rule.startswith("*")]
