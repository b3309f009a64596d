"""Films: frames and sound into one file, written as they come, and read back (PyAV)."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .pictures import read_picture
from .sound_files import read_sound

__all__ = ["FILM_SUFFIXES", "VideoWriter", "check_film_path", "read_picture", "read_sound",
           "read_video"]  # fmt: skip

FILM_SUFFIXES = (".mp4", ".mov", ".mkv")
"""Containers that hold H.264 and AAC."""

_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200,
              96000)  # fmt: skip
_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
_BT709 = 1


def read_video(path: Path) -> tuple[Tensor, Fraction, dict[str, str]]:
    """Read a film's pictures; all of them are in memory at once.

    Args:
        path: a film that PyAV reads.

    Returns:
        (F, H, W, 3) uint8, frames per second, and the container's metadata with names in lower
        case; `comment` is what VideoWriter was given, as JSON.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is a folder or no film, or breaks off.
    """
    import av

    if path.is_dir():
        raise ValueError(f"the film {path} is a folder; give a film")
    if not path.is_file():
        raise FileNotFoundError(f"the film {path} does not exist; give a film")
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
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder {path.parent} cannot be written; choose another")


class _Disk:
    """A file that remembers the first error of writing; libav overlooks some."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.error: OSError | None = None
        self._file = path.open("w+b", buffering=0)
        self.read, self.seek, self.tell = self._file.read, self._file.seek, self._file.tell

    def write(self, data: bytes) -> int:
        """Write all of the data."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.error = self.error or error
            raise
        return len(data)

    def close(self) -> None:
        """Close the file when everything is on the disk."""
        if not self._file.closed:
            try:
                os.fsync(self._file.fileno())
            finally:
                self._file.close()


def _reopened(url: str, flags: int, options: Any) -> BinaryIO:
    """What libav reads while it moves a film's index to the front."""
    return Path(url).open("rb")


class VideoWriter:
    """Writes a film as H.264 and AAC while its frames come; memory does not grow with length.

    Used with `with`. The film grows under a temporary name beside the final one and takes its
    place when the block ends without an error; else it is removed, and an older film stays.

    Args:
        path: ends in .mp4, .mov or .mkv.
        fps: frames per second.
        size: width and height of the frames; odd sides are padded by repeating the edge.
        sound: waveform (C, T) or (T,) and its samples per second; None for a silent film. Up to
            eight channels are kept, more are mixed to one. It is resampled only where AAC lacks
            its rate.
        metadata: plain values, kept as JSON in the container's comment.

    Raises:
        ValueError: for a bad name or sound.
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
        check_film_path(path)
        self.path, self.fps, self.size = path, Fraction(fps), size
        self.metadata = dict(metadata or {})
        self.num_frames = 0
        self._partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
        self._sound = None if sound is None else _for_aac(*sound)
        self._heard = 0

    def __enter__(self) -> VideoWriter:
        try:
            self._disk = _Disk(self._partial)
            self._open()
        except BaseException as error:
            self._partial.unlink(missing_ok=True)
            raise self._explained(error) from None
        return self

    def _open(self) -> None:
        import av

        options = {"fflags": "+bitexact"}  # no dates and no random numbers in the file
        suffix = self.path.suffix.lower()
        if suffix != ".mkv":
            options["movflags"] = "+faststart"
            if self._sound is not None:
                options["movie_timescale"] = str(self._sound[1])  # its length to the sample
        self._film: Any = av.open(
            self._disk, "w", format={".mkv": "matroska"}.get(suffix, suffix[1:]), options=options,
            io_open=_reopened,
        )  # fmt: skip
        self._film.metadata["comment"] = json.dumps(self.metadata)
        stream: Any = self._film.add_stream("libx264", rate=self.fps, options={"crf": "16"})
        stream.width, stream.height = (side + side % 2 for side in self.size)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = 1  # 16..235
        self._pictures = stream
        if self._sound is not None:
            waveform, rate = self._sound
            self._layout = _LAYOUTS[waveform.shape[0] - 1]
            self._track: Any = self._film.add_stream("aac", rate=rate, layout=self._layout)
            self._track.bit_rate = waveform.shape[0] * min(96_000, 5 * rate)

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
        pixels = (frames.detach().float().cpu().clamp(0, 1) * 255).round()
        pixels = torch.nn.functional.pad(pixels, (0, width % 2, 0, height % 2), mode="replicate")
        try:
            for picture in pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy():
                self._write_picture(picture)
                self._write_sound(self.num_frames / self.fps)
        except Exception as error:
            raise self._explained(error) from None

    def _write_picture(self, picture: Any) -> None:
        import av
        from av.video.reformatter import Colorspace

        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        frame.pts, frame.time_base = self.num_frames, 1 / self.fps
        self._film.mux(self._pictures.encode(frame))
        self.num_frames += 1

    def _write_sound(self, until: Fraction | None) -> None:
        """Write the sound up to a time in seconds; None for all that is left."""
        import av

        if self._sound is None:
            return
        waveform, rate = self._sound
        total = waveform.shape[1]
        end = total if until is None else min(int(until * rate), total)
        while self._heard < end:
            part = waveform[:, self._heard : min(end, self._heard + rate)]
            samples = part.T.clamp(-1, 1).contiguous().view(1, -1).numpy()
            block: Any = av.AudioFrame.from_ndarray(samples, format="flt", layout=self._layout)
            block.sample_rate, block.pts, block.time_base = rate, self._heard, Fraction(1, rate)
            self._film.mux(self._track.encode(block))
            self._heard += part.shape[1]

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
        self._write_sound(None)
        self._film.mux(self._pictures.encode())
        if self._sound is not None:
            self._film.mux(self._track.encode())
        self._film.close()
        self._disk.close()
        if self._disk.error is not None:
            raise self._disk.error
        os.replace(self._partial, self.path)

    def _abandon(self) -> None:
        """Close and remove what is not a whole film; what closing it says does not matter."""
        with contextlib.suppress(Exception):
            self._film.close()
        with contextlib.suppress(OSError):
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


def _for_aac(waveform: Tensor, rate: int) -> tuple[Tensor, int]:
    """A waveform (C, T) with the channels and the rate that AAC can hold."""
    waveform = (waveform[None] if waveform.ndim == 1 else waveform).detach().float().cpu()
    if waveform.ndim != 2 or waveform.numel() == 0 or not bool(torch.isfinite(waveform).all()):
        raise ValueError(
            f"the sound must be (C, T) with finite samples, got {tuple(waveform.shape)}"
        )
    if waveform.shape[0] > len(_LAYOUTS):
        waveform = waveform.mean(0, keepdim=True)
    if rate in _AAC_RATES:
        return waveform, rate
    import librosa

    better = next((known for known in _AAC_RATES if known >= rate), _AAC_RATES[-1])
    resampled = librosa.resample(
        waveform.numpy(), orig_sr=rate, target_sr=better, res_type="soxr_hq"
    )
    return torch.from_numpy(resampled), better

