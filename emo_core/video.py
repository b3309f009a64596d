"""Films: frames and sound into one file, written as they come, and read back (PyAV)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .aac import SoundTrack
from .disk import Disk, remove_left, reopened, replace_file
from .pictures import read_picture
from .readable import check_readable
from .sound_files import read_sound

__all__ = ["FILM_SUFFIXES", "VideoWriter", "check_film_path", "read_picture", "read_sound",
           "read_video"]  # fmt: skip

FILM_SUFFIXES = (".mp4", ".mov", ".mkv")
"""Containers that hold H.264 and AAC."""

_BT709 = 1


def read_video(path: Path) -> tuple[Tensor, Fraction, dict[str, str]]:
    """Read a film's pictures; all of them are in memory at once.

    Args:
        path: a film that PyAV reads.

    Returns:
        (F, H, W, 3) uint8, frames per second, and the container's metadata with names in lower
        case; `comment` is what VideoWriter was given, as JSON.

    Raises:
        OSError: if there is no such file, or it may not be read.
        ValueError: if it is a folder or no film, or breaks off.
    """
    import av

    check_readable(path, "film", "a film")
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise ValueError(f"{path} has no pictures; give a film")
            stream = file.streams.video[0]
            frames = [
                torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in file.decode(stream)
            ]
            rate = stream.average_rate or stream.guessed_rate
            metadata = {name.lower(): value for name, value in file.metadata.items()}
    except (av.FFmpegError, EOFError) as error:
        raise ValueError(f"{path} is not a film that can be read ({error}); give another") from None
    if not frames or not rate:
        raise ValueError(f"{path} holds no pictures; give a film")
    return torch.stack(frames), Fraction(rate), metadata


def check_film_path(path: Path) -> None:
    """Say why a film cannot be written under this name, before any work is done.

    Raises:
        ValueError: if its ending names no container for film and sound, or it is a folder.
        FileNotFoundError: if its folder does not exist.
        PermissionError: if its folder cannot be written.
    """
    if path.suffix.lower() not in FILM_SUFFIXES:
        got = f"the ending {path.suffix}" if path.suffix else "no ending"
        raise ValueError(
            f"a film with sound needs a name that ends in {', '.join(FILM_SUFFIXES)}, got {got} "
            f"in {path}; change the name"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a film in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {path.parent} for {path.name} does not exist; make it or change the name"
        )
    probe = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:  # Windows tells by trying alone
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"the folder {path.parent} cannot be written ({error.strerror}); choose another"
        ) from None


class VideoWriter:
    """Writes a film as H.264 and AAC while its frames come; memory does not grow with length.

    Used with `with`. The film grows under a temporary name beside the final one and takes its
    place when the block ends without an error; else it is removed, and an older film stays. What
    a killed process left under such a name of this film is removed when the next one begins.

    Args:
        path: ends in .mp4, .mov or .mkv.
        fps: frames per second.
        size: width and height of the frames; odd sides are padded by repeating the edge.
        sound: waveform (C, T) or (T,) and its samples per second; None for a silent film. Up to
            eight channels are kept, more are mixed to one. It is resampled only where AAC lacks
            its rate.
        metadata: plain values, kept as JSON in the container's comment.

    Raises:
        ValueError: for a bad name or sound, or where PyAV is missing.
        OSError: if the folder is missing or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        fps: Fraction | int,
        size: tuple[int, int],
        sound: tuple[Tensor, int] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if find_spec("av") is None:
            raise ValueError("writing a film needs PyAV, which is not installed: pip install av")
        check_film_path(path)
        self.path, self.fps, self.size = path, Fraction(fps), size
        self.metadata = dict(metadata or {})
        self.num_frames = 0
        self._partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        self._sound = None if sound is None else SoundTrack(*sound)

    def __enter__(self) -> VideoWriter:
        stem, suffix = re.escape(self.path.stem), re.escape(self.path.suffix)
        left = re.compile(rf"\.{stem}\.[0-9a-f]{{8}}\.partial{suffix}")
        remove_left(self.path.parent, left)
        try:
            self._disk = Disk(self._partial)
            self._open()
        except BaseException as error:
            self._abandon()
            raise self._explained(error) from None
        return self

    def _open(self) -> None:
        import av

        options = {"fflags": "+bitexact"}  # no dates and no random numbers in the file
        suffix = self.path.suffix.lower()
        if suffix != ".mkv":
            options["movflags"] = "+faststart"
            if self._sound is not None:
                options["movie_timescale"] = str(self._sound.rate)  # its length to the sample
        self._film: Any = av.open(
            self._disk, "w", format={".mkv": "matroska"}.get(suffix, suffix[1:]), options=options,
            io_open=reopened,
        )  # fmt: skip
        if self.metadata:
            self._film.metadata["comment"] = json.dumps(self.metadata)
        stream: Any = self._film.add_stream("libx264", rate=self.fps, options={"crf": "16"})
        stream.width, stream.height = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16..235
        self._pictures = stream
        if self._sound is not None:
            self._sound.open(self._film)

    def write(self, frames: Tensor) -> None:
        """Append frames (F, 3, H, W) in 0..1, and the sound up to their end.

        Raises:
            ValueError: if they have another size than the film.
            OSError: if they cannot be written, for example on a full disk.
        """
        width, height = self.size
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (3, height, width):
            raise ValueError(
                f"frames must be (F, 3, {height}, {width}) like the film, got {tuple(frames.shape)}"
            )
        try:
            for frame in frames.detach():  # one by one, so that many frames need no second copy
                self._write_picture(frame)
                if self._sound is not None:
                    self._sound.write(self.num_frames / self.fps)
        except Exception as error:
            raise self._explained(error) from None

    def _write_picture(self, picture: Tensor) -> None:
        """Write (3, H, W)."""
        import av
        from av.video.reformatter import Colorspace

        pixels = (picture.float().cpu().clamp(0, 1) * 255).round()
        odd = (0, self.size[0] % 2, 0, self.size[1] % 2)
        pixels = torch.nn.functional.pad(pixels, odd, mode="replicate").to(torch.uint8)
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        frame: Any = av.VideoFrame.from_ndarray(array, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        frame.pts, frame.time_base = self.num_frames, 1 / self.fps
        self._film.mux(self._pictures.encode(frame))
        self.num_frames += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as fault:
            raise self._explained(fault) from None
        finally:
            self._abandon()

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise ValueError("a film needs at least one frame, got none")
        if self._sound is not None:
            self._sound.write(None)
        self._film.mux(self._pictures.encode())
        if self._sound is not None:
            self._sound.finish()
        self._film.close()
        self._disk.close()
        if self._disk.error is not None:
            raise self._disk.error
        try:
            replace_file(self._partial, self.path)
        except PermissionError:  # Windows, while a player has the older film open
            name = f"{self.path.stem}-{secrets.token_hex(4)}{self.path.suffix}"
            kept = self.path.with_name(name)
            os.replace(self._partial, kept)
            raise PermissionError(
                f"{self.path} is in use and was not replaced; the new film is whole, as {kept}"
            ) from None

    def _abandon(self) -> None:
        """Close and remove what is not a whole film; what closing it says does not matter."""
        with contextlib.suppress(Exception):
            self._film.close()
        with contextlib.suppress(OSError, AttributeError):  # it may never have been made
            self._disk.close()
        self._partial.unlink(missing_ok=True)

    def _explained(self, error: BaseException) -> BaseException:
        """An error of writing as one sentence with the film's name; others as they are."""
        disk = getattr(self, "_disk", None)
        cause = error if disk is None or disk.error is None else disk.error
        if not isinstance(cause, OSError) or cause.errno is None:
            return error
        reason = cause.strerror or type(cause).__name__
        return OSError(
            f"the film {self.path} cannot be written ({reason}); nothing was left of it: make "
            "room, or choose another folder"
        )
