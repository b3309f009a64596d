"""Films that are kept, finished or not, as a node offers and opens them."""

from __future__ import annotations

from typing import Any

from ..emo_core.films import OpenFilm, clips_there, open_film
from ..emo_core.store import known_films
from .compat import io
from .keeping import clips_folder
from .telling import counted
from .vae import weights_of

NONE = "none"
_MOST_OFFERED = 50


def film_widget() -> io.Input:
    """The widget that chooses one: the last used first."""
    return io.Combo.Input(
        "kept_film",
        options=[NONE, *known_films(clips_folder())[:_MOST_OFFERED]],
        default=NONE,
        optional=True,
        tooltip="A film of Motion Frame Looper's kept clips in place of latent, as far as it was "
        "made before an interruption, a crash or an error; nothing is sampled for it, and none is "
        "for latent.",
    )


def check_film(name: str) -> bool | str:
    """True, or what the host says before it runs anything."""
    if name == NONE or clips_there(clips_folder(), name):
        return True
    return (
        f"the film {name!r} is not among the kept clips any more; choose another, or none and "
        "sample it again"
    )


def film_state(name: str) -> str:
    """What changes when the film grows."""
    return NONE if name == NONE else f"{name} {clips_there(clips_folder(), name)}"


def opened_film(name: str) -> OpenFilm:
    """What there is of a film.

    Raises:
        ValueError: if there is nothing.
    """
    return open_film(clips_folder(), name)


def check_vae(opened: OpenFilm, name: str, vae: Any) -> str | None:
    """See that a film's latents are of the VAE that is to decode them.

    Returns:
        A sentence where that cannot be known: the film is of weights that bring a VAE, and the one
        that is connected is not EMO Model Loader's. None where all is well, or the film does not
        say which VAE it is of, as older ones.

    Raises:
        ValueError: if they are of another.
    """
    wanted, given = opened.film.notes.get("vae"), weights_of(vae)
    if wanted is None or wanted == given:
        return None
    if given is None:
        return (
            "this film's weights brought a VAE of their own, and whether the connected one is that "
            "cannot be seen; if the colours are wrong, connect the VAE of EMO Model Loader"
        )
    raise ValueError(
        f"the film {name!r} was sampled with other weights than those whose VAE is connected, as "
        "after an update of the model; connect the VAE of the file that it was made with, or "
        "choose none and sample it again"
    )


def about(opened: OpenFilm, name: str, fps: float) -> str:
    """How much of a film there is, for the node to show.

    Args:
        opened: the film.
        name: its name.
        fps: its frames per second.
    """
    film = opened.film
    clips, frames = len(film.keys), sum(film.kept)
    there = f"{len(opened.frames) / fps:.2f} of {frames / fps:.2f} s"
    end = "" if opened.finished else "; queue it with none chosen and the rest is sampled"
    return f"{name}: {opened.clips} of {counted(clips)}, {there}{end}"


def wants_latent(given: dict[str, Any], name: str) -> bool:
    """Whether the latent that is connected, and not yet made, is needed."""
    return name == NONE and "latent" in given and given["latent"] is None
