"""A film's clips in a store: what generate() asks before it samples one, in both worlds.

Whatever goes wrong with the folder costs the keeping and never the film.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from .clip_files import Manifest
from .clip_keys import FilmTracks, clip_key, clip_keys, digest, handed_on
from .clips import ClipPlan
from .config import EMOConfig
from .films import FilmFacts, film_mark, film_name
from .generate import Film
from .store import ClipStore

GIGABYTE = 10**9
CLIPS_LIMIT = 2.0
"""What the clips of all films may take together, in GB, where nobody says otherwise."""

logger = logging.getLogger(__name__)


def open_store(folder: Path, gigabytes: float = CLIPS_LIMIT) -> ClipStore | None:
    """The store in a folder; None, with a warning, if it cannot be made."""
    try:
        return ClipStore(folder, max(1, int(gigabytes * GIGABYTE)))
    except OSError as error:
        logger.warning("%s; the film is made without keeping its clips", error)
        return None


def user_folder() -> Path:
    """Where a user's clips are kept: the folder for what programs can make again."""
    if sys.platform == "win32":
        usual = os.environ.get("LOCALAPPDATA", "") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        usual = Path.home() / "Library" / "Caches"
    else:
        usual = Path.home() / ".cache"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path there is to be ignored, says the standard that it comes from.
    return (Path(named) if Path(named).is_absolute() else Path(usual)) / "emo-portrait" / "clips"


def tracks_of(film: Film, config: EMOConfig, seed: int | None = None) -> FilmTracks:
    """What differs from clip to clip of a film.

    Args:
        film: what it is made from.
        config: of the model that makes it.
        seed: of its noise; None for the film's own.
    """
    speed = None if config.speed is None else film.speed
    frames = {"region": film.region} if film.region.ndim == 4 else {}
    if film.given is not None:
        frames["given"] = film.given.latents[0]
        if film.given.mask is not None:
            frames["mask"] = film.given.mask[0]
    return FilmTracks(
        audio=film.audio,
        audio_window=config.audio.window,
        clip_length=config.temporal.num_frames,
        seed=film.seed if seed is None else seed,
        speed=speed,
        speed_window=0 if config.speed is None else config.speed.window,
        frames=frames,
    )


def still_region(film: Film) -> Tensor:
    """What FilmConstants.region is: nothing where the region moves, which tracks_of() then has."""
    return film.region if film.region.ndim == 3 else film.region.new_empty(0)


class KeptClips:
    """Looks for a film's clips in a store and puts them there; generate.Kept.

    Args:
        store: where they are.
        film: clip_keys.film_key() of all that is constant over the film.
        tracks: what differs from clip to clip.
        motion: (1, n, C, h, w), given latents before the first clip; None for none.
        on_found: told of every clip that was there.

    Attributes:
        found: clips that were there.
        made: clips that were not.
        stored: clips that are in the store now.
        folder: of the store.
        trouble: why the folder takes nothing any more; None as long as it does.
    """

    def __init__(
        self,
        store: ClipStore,
        film: str,
        tracks: FilmTracks,
        motion: Tensor | None = None,
        on_found: Callable[[ClipPlan], None] | None = None,
    ) -> None:
        self.found = self.made = self.stored = 0
        self.folder = store.folder
        self._store, self._film, self._tracks, self._motion = store, film, tracks, motion
        self._key: str | None = None
        self._before = None if motion is None else digest(motion)
        self._on_found = on_found
        self.trouble: str | None = None
        self._expected: dict[int, str] = {}
        self._manifest: Manifest | None = None
        self._name = ""

    def expect(self, plans: Iterable[ClipPlan], facts: FilmFacts | None) -> int:
        """Learn of all clips of the film, so that it can be opened as soon as one is there.

        Args:
            plans: its clips, in order and without a gap.
            facts: what else is to be known of it; None for clips that are no film of their own.

        Returns:
            How many clips are there.
        """
        plans = list(plans)
        keys = list(clip_keys(self._film, self._tracks, plans, self._motion))
        self._expected = {plan.index: key for plan, key in zip(plans, keys, strict=True)}
        self._store.hold(keys)
        if facts is not None:
            self._manifest = facts.manifest(keys, [plan.kept for plan in plans])
        return sum(self._store.has(key) for key in keys)

    def get(self, plan: ClipPlan) -> Tensor | None:
        """All latents (F, C, h, w) of the next clip on the CPU; None if they are not there.

        Clips are asked for once, in order and without a gap: each key holds the one before.
        """
        key = self._expected.get(plan.index)
        self._key = key or clip_key(self._film, self._tracks, plan, self._before)
        self._before = handed_on(self._key, self._tracks, plan)
        latents = self._store.get(self._key)
        if latents is None:
            self.made += 1
            return None
        self.found += 1
        self.stored += 1
        self._kept_on(self._note_film)
        if self._on_found is not None:
            self._on_found(plan)
        return latents

    def put(self, plan: ClipPlan, latents: Tensor) -> None:
        """Keep the clip that get() did not find; a folder that takes nothing is said once."""
        # What went wrong once is to be tried again.
        if self.trouble is not None or not bool(torch.isfinite(latents).all()):
            return
        if self._key is None:
            raise ValueError(f"clip {plan.index} was put before it was asked for; call get() first")
        key, about = self._key, {"clip": plan.index, "first": plan.first}
        self._kept_on(lambda: self._store.put(key, latents, about))
        self.stored += self.trouble is None
        self._kept_on(self._note_film)

    def _note_film(self) -> None:
        """Write which clips make the film, or say that the film is in use."""
        film = self._manifest
        if film is not None and not self._name:
            # A film that was begun before keeps its name, which workflows may have been saved with.
            mark = film_mark(film.keys, film.kept)
            names = (name for name in self._store.films() if name.endswith(f"_{mark}"))
            self._name = next(names, "")
            if not self._name:
                self._store.write_manifest(film_name(film), film)
                self._name = film_name(film)
        elif self._name:
            self._store.use_film(self._name)

    def _kept_on(self, write: Callable[[], None]) -> None:
        """Write to the folder, as long as it takes anything; what it refuses is said once."""
        if self.trouble is not None:
            return
        try:
            write()
        except OSError as error:
            self.trouble = str(error)
            logger.warning("%s; the film goes on without keeping its clips", error)
