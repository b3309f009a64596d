"""How long the rest of a film takes, told from the clips that were sampled so far."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Times clips that are sampled; clips that are found cost nothing and are not timed.

    The first step of all loads the networks, so that the clock begins at its end.

    Args:
        clips: how many are to be sampled.
        steps: sampling steps of a clip.
        clock: seconds that only ever rise; the machine's day and time may be set meanwhile.
    """

    def __init__(self, clips: int, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._steps, self._clock = clips, steps, clock
        self._first = self._others = 0.0
        self._finished = 0
        self._since: float | None = None
        self._loaded: tuple[int, float] | None = None

    def begin(self) -> None:
        """A clip is sampled from now on."""
        self._since = self._clock()
        # One that was thought to be kept may turn out to be damaged.
        self._left = max(self._left, 1)

    def step(self, done: int) -> None:
        """So many steps of the running clip are done."""
        if self._loaded is None:
            self._loaded = done, self._clock()

    def end(self) -> None:
        """The clip is sampled."""
        if self._since is None:
            raise ValueError("no clip has begun; call begin() first")
        seconds = self._clock() - self._since
        if self._finished:
            self._others += seconds
        else:
            self._first = self._each(self._steps) or seconds
        self._finished += 1
        self._left -= 1
        self._since = None

    def remaining(self, step: int) -> float | None:
        """Seconds until the film is sampled; None before the second step is done.

        Args:
            step: steps of the running clip that are done.
        """
        spent = 0.0 if self._since is None else self._clock() - self._since
        if self._finished > 1:
            each = self._others / (self._finished - 1)
        elif self._finished:
            each = self._first
        else:
            first = self._each(step)
            if first is None:
                return None
            return first * (self._left - step / self._steps)
        running = self._since is not None
        return max(0.0, each - spent) * running + each * (self._left - running)

    def _each(self, step: int) -> float | None:
        """Seconds of a clip, told from the first one's steps but its first; None without any."""
        if self._loaded is None or step <= self._loaded[0]:
            return None
        done, at = self._loaded
        return (self._clock() - at) * self._steps / (step - done)


def minutes(seconds: float) -> str:
    """A duration for people, in whole seconds: 0:09, 1:20, 2:05:00."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{rest // 60}:{rest % 60:02}"
