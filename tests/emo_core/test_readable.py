"""Files that cannot be read, whatever is in them: every reader says so in one sentence."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo_core.film_pieces import film_facts
from emo_core.pictures import read_picture
from emo_core.sound_files import read_sound
from emo_core.subject import read_numbers
from emo_core.training.commands import read_phones
from emo_core.truth import read_truth
from emo_core.video import read_video
from emo_core.weight_files import open_weights

READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "portrait": (read_picture, "give a picture file"),
    "sound": (read_sound, "give a recording or a film"),
    "film": (read_video, "give a film"),
    "film facts": (film_facts, "give a film"),
    "checkpoint": (open_weights, "give a .safetensors file or emo-tiny"),
    "truth": (read_truth, "give what `emo puppet --truth` writes"),
    "landmarks": (lambda path: read_numbers(path, "landmarks"), "give a .npy, .json or"),
    "phones": (read_phones, "give lines start<TAB>end<TAB>phone"),
}


@pytest.mark.parametrize("name", READERS)
def test_what_cannot_be_read_is_said_with_a_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, way_out = READERS[name]
    with pytest.raises(ValueError, match="is a folder") as folder:
        reader(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist") as missing:
        reader(tmp_path / "none.x")
    path = tmp_path / "locked.x"
    path.write_bytes(b"something")

    def locked(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", locked)  # root may read whatever its rights are
    with pytest.raises(PermissionError, match="may not be read by this user; change its") as denied:
        reader(path)
    for told, where in ((folder, tmp_path), (missing, tmp_path / "none.x"), (denied, path)):
        assert str(where) in str(told.value) and way_out in str(told.value)
