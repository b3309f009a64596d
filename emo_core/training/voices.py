"""Synthetic voices that tell when each phone sounds: espeak-ng (C library) and flite (program).

Both are tools of the trainer, not dependencies of the pack: each is looked for when a voice is
first used. espeak-ng keeps one state a process, so use one thread; its breath and flutter are
not repeatable, so two calls with the same text differ slightly. Stored utterances are exact.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import math
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..waveform import SAMPLE_RATE
from .phones import PAUSE, VOWELS, Phone, parse_phones

ACCENTS: tuple[str, ...] = (
    "en-us", "en", "en-gb-x-rp", "en-us", "en-gb-scotland", "en-us", "en-gb-x-gbclan",
    "en-029", "en-us-nyc", "en-gb-x-gbcwmd",
)  # fmt: skip

_VARIANTS = """
Alex Alicia Andrea Andy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Nguyen
adam anika antonio aunty belinda benjamin david ed
f1 f2 f3 f5 fast grandma grandpa gustave iven iven2 iven3 iven4 john klatt klatt2 klatt4 klatt5
klatt6 m1 m2 m3 m4 m5 m7 m8 marcelo max michel miguel norbert pablo paul pedro quincy rob robert
sandro shelby steph3 travis victor zac
"""
VARIANTS: tuple[str, ...] = tuple(_VARIANTS.split())
"""Variants of training: without whispers, robots, effects and the voices held out for tests."""

HELD_OUT_VOICES: tuple[str, ...] = (
    "en-us+f4", "en+m6", "en-gb-x-rp+klatt3", "en-us+Annie", "en+boris", "en-us+edward",
    "en-gb-x-rp+linda", "en-us+steph2", "en-us+Mike",
)  # fmt: skip
"""espeak-ng voices that are never trained on."""

FLITE_VOICES: tuple[str, ...] = ("slt", "rms", "awb", "kal16")
"""Another synthesiser's voices, recorded from people; never trained on."""

_ABROAD = ("f1", "f3", "f5", "m1", "m3", "m7", "max")

TRAIN_VOICES: tuple[str, ...] = (
    *(f"{ACCENTS[i % len(ACCENTS)]}+{v}" for i, v in enumerate(VARIANTS)),
    *(f"{ACCENTS[(i + 3) % len(ACCENTS)]}+{v}" for i, v in enumerate(VARIANTS)),
    *(f"{lang}+{v}" for lang in ("de", "fr", "es", "it") for v in _ABROAD),
)
"""espeak-ng voices of training: variants in several English accents and four languages more."""


@dataclass(frozen=True)
class Utterance:
    """Sound with the phones that it consists of.

    Attributes:
        waveform: (T,) float32 in -1..1 at 16 kHz.
        phones: (start_s, end_s, name) in order, names from phones.PHONES.
        voice: name of the voice; empty where nobody speaks.
        text: what is said.
        kind: speech, pauses, singing, silence or test.
    """

    waveform: Tensor
    phones: tuple[Phone, ...]
    voice: str
    text: str
    kind: str = "speech"

    @property
    def num_frames(self) -> int:
        """Frames at 25 fps, the last one perhaps not full."""
        return -(-self.waveform.shape[0] * 25 // SAMPLE_RATE)


class _EventId(ctypes.Union):
    _fields_ = (
        ("number", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("string", ctypes.c_char * 8),
    )


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class _Espeak:
    """libespeak-ng in retrieval mode with phoneme events in IPA."""

    def __init__(self) -> None:
        found = map(ctypes.util.find_library, ("espeak-ng", "libespeak-ng"))  # Windows: the latter
        try:
            self.library = ctypes.CDLL(next(filter(None, found), "libespeak-ng.so.1"))
        except OSError as error:
            raise OSError(
                "libespeak-ng is not installed; install espeak-ng (Debian: apt-get install "
                "espeak-ng; Windows: its installer, and its folder in PATH), or bring sounds and "
                "phones of your own: emo puppet --sound and --phones, or save_utterances"
            ) from error
        retrieval, events_in_ipa = 2, 0x0001 | 0x0002
        self.rate: int = self.library.espeak_Initialize(retrieval, 0, None, events_in_ipa)
        if self.rate <= 0:
            raise OSError("espeak-ng does not start: its data files are missing; install them")
        self.library.espeak_Info.restype = ctypes.c_char_p
        path = ctypes.c_char_p()
        self.library.espeak_Info(ctypes.byref(path))
        self.variants = Path((path.value or b"").decode()) / "voices" / "!v"
        self.chunks: list[bytes] = []
        self.events: list[tuple[float, str]] = []
        self.callback = _CALLBACK(self._receive)  # must live as long as the library calls it
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: object) -> int:
        if samples and count > 0:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != 0:  # type: ignore[index]
            event = events[index]  # type: ignore[index]
            if event.type == 7:  # phoneme; its name may be cut inside a character
                label = event.id.string.decode("utf-8", "ignore")
                self.events.append((event.audio_position / 1000, label))
            index += 1
        return 0

    def set_voice(self, voice: str) -> None:
        """Select language+variant; espeak-ng itself ignores unknown variants silently."""
        _, plus, variant = voice.partition("+")
        unknown = plus and not (self.variants / variant).is_file()
        if unknown or self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(
                f"voice {voice!r} is not known to espeak-ng; expected a language and a variant "
                "such as 'en-us+f2' (espeak-ng --voices, espeak-ng --voices=variant)"
            )

    def synthesise(self, text: str, **parameters: int) -> tuple[np.ndarray, list[Phone]]:
        """Speak with rate, pitch and range; (T,) int16 at self.rate and the phones."""
        numbers = {"rate": 1, "pitch": 3, "range": 4}
        for name, value in parameters.items():
            self.library.espeak_SetParameter(numbers[name], value, 0)
        self.chunks, self.events = [], []
        data = text.encode("utf-8")
        utf8, phonemes_in_brackets = 0x01, 0x100
        self.library.espeak_Synth(
            data, len(data) + 1, 0, 1, 0, utf8 | phonemes_in_brackets, None, None
        )
        sound = np.frombuffer(b"".join(self.chunks), dtype=np.int16)
        starts = [start for start, _ in self.events] + [len(sound) / self.rate]
        phones = [
            (start, max(start, starts[index + 1]), label)
            for index, (start, label) in enumerate(self.events)
        ]
        return sound, phones


@functools.cache
def _espeak() -> _Espeak:
    return _Espeak()


def _correct(phones: tuple[Phone, ...]) -> tuple[Phone, ...]:
    """Mend two habits of espeak-ng's phone times, measured against its own sound.

    It announces a voiceless stop at the burst, though the sound ends 50 ms earlier, when the
    mouth closes; and a glide that links two vowels (be open) has no name, as pauses have none.
    """
    closure, longest_glide = 0.05, 0.1
    mended: list[Phone] = []
    for index, (start, end, name) in enumerate(phones):
        before = mended[-1] if mended else (start, start, PAUSE)
        after = phones[index + 1][2] if index + 1 < len(phones) else PAUSE
        linked = before[2] in ("IY", "IH") and after in VOWELS
        if name == PAUSE and linked and end - start < longest_glide:
            name = "Y"
        if name in ("P", "T", "K", "CH") and before[2] != PAUSE:
            start = max(start - closure, (before[0] + before[1]) / 2)
            mended[-1] = (before[0], start, before[2])
        mended.append((start, end, name))
    return tuple(mended)


def resample(sound: np.ndarray, rate: int) -> Tensor:
    """Bring int16 samples of any rate to (T,) float32 at 16 kHz (polyphase filter)."""
    from scipy.signal import resample_poly

    scaled = sound.astype(np.float32) / 32768
    if rate != SAMPLE_RATE and len(scaled):
        divisor = math.gcd(rate, SAMPLE_RATE)
        scaled = resample_poly(scaled, SAMPLE_RATE // divisor, rate // divisor)
    return torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32)).clamp_(-1, 1)


def speak(
    text: str, voice: str, rate: int = 160, pitch: int = 50, pitch_range: int = 50
) -> Utterance:
    """Speak a text with an espeak-ng voice.

    Args:
        text: words, or espeak-ng's phoneme names in [[double brackets]].
        voice: language, or language+variant, e.g. "en-us+f2".
        rate: words a minute, 80..450.
        pitch: 0..99.
        pitch_range: 0 (one tone) to 99.

    Returns:
        The sound at 16 kHz with espeak-ng's own phone times.

    Raises:
        OSError: if libespeak-ng is not installed.
        ValueError: if the voice is not known, a number is out of range or nothing is to be said.
    """
    if not (80 <= rate <= 450 and 0 <= pitch <= 99 and 0 <= pitch_range <= 99):
        raise ValueError(
            f"rate must be 80..450 and pitch and pitch_range 0..99, "
            f"got {rate}, {pitch} and {pitch_range}"
        )
    engine = _espeak()
    engine.set_voice(voice)
    sound, phones = engine.synthesise(text, rate=rate, pitch=pitch, range=pitch_range)
    said = _correct(parse_phones(phones))
    if all(name == PAUSE for _, _, name in said):  # of "..." the engine gives a little sound
        raise ValueError(f"text must have something to say, got {text!r}; give words")
    return Utterance(resample(sound, engine.rate), said, voice, text)


def speak_flite(text: str, voice: str) -> Utterance:
    """Speak a text with a flite voice.

    Args:
        text: English words.
        voice: one of FLITE_VOICES.

    Returns:
        The sound at 16 kHz with flite's own segment times.

    Raises:
        OSError: if the program flite is not installed or fails.
        ValueError: if the voice is not one of FLITE_VOICES or nothing is to be said.
    """
    if voice not in FLITE_VOICES:
        raise ValueError(f"voice must be one of {', '.join(FLITE_VOICES)}, got {voice!r}")
    if not text.strip():
        raise ValueError(f"text must have something to say, got {text!r}; give words")
    program = shutil.which("flite")
    if program is None:
        raise OSError("the program flite is not installed; Debian: apt-get install flite")
    # One sentence only: flite would start its clock again at each full stop.
    line = text.strip().rstrip(".!?")
    for mark in ".!?;":
        line = line.replace(mark, ",")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = [program, "-voice", voice, "-psdur", "-t", line + ".", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not path.is_file():
            raise OSError(f"flite could not speak {text!r}: {done.stderr.strip()}")
        with wave.open(str(path)) as file:
            rate = file.getframerate()
            sound = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
    phones: list[Phone] = []
    start, duration = 0.0, len(sound) / rate
    for segment in done.stdout.split():
        name, _, time = segment.partition(":")
        end = min(max(start, float(time)), duration)
        phones.append((start, end, name))
        start = end
    phones.append((start, duration, PAUSE))
    return Utterance(resample(sound, rate), parse_phones(phones), voice, text)
