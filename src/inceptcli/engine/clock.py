"""How long an epoch of training takes, and what makes it slow."""

from __future__ import annotations

import os
import time

import numpy as np
import torch

from inceptcli.data.augment import Indices
from inceptcli.data.loader import Loader
from inceptcli.engine.training import Training
from inceptcli.events import BatchDone, Notice

LONG_ENOUGH = 5.0  # seconds of an epoch, from which on its speed is judged
MUCH_WAITING = 0.2  # part of them, from which on waiting for pixels is worth a word
FEW_PROCESSORS = 0.8  # of those that torch's threads want; they spin while they wait


class Clock:
    """Measures the training part of one epoch and tells of every step.

    Args:
        training: Whose progress it tells.
        loader: Asked how long it was waited for.
        steps: The photographs of each step.
    """

    def __init__(self, training: Training, loader: Loader, steps: list[Indices]) -> None:
        self._training = training
        self._loader = loader
        self._ends = np.cumsum([len(step) for step in steps]).tolist()
        self._already = training.progress.seconds
        self._waited = training.progress.wait_seconds
        self._first = training.progress.step
        self._started, self._computed = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Time of this epoch's training so far, earlier sittings included."""
        return self._already + self._elapsed

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)

    def tick(self) -> None:
        """Note the time waited for pixels, and emit where the epoch stands after a step."""
        progress, elapsed = self._training.progress, self._elapsed
        waited = self._loader.waited
        progress.wait_seconds = self._waited + waited
        done = self._ends[progress.step - 1]
        self._training.emit(
            BatchDone(
                epoch=progress.epoch,
                role="train",
                done=done,
                total=self._ends[-1],
                images_per_second=self._since_start(done) / elapsed,
                wait_share=min(1.0, waited / elapsed),
            )
        )

    def finish(self) -> None:
        """Note the time waited, when all is computed; say once a sitting what makes it slow."""
        t, elapsed = self._training, self._elapsed
        waited = self._loader.waited
        t.progress.wait_seconds = self._waited + waited
        if t.advised or elapsed < LONG_ENOUGH:
            return
        t.advised = True
        computing = max(elapsed - waited, 1e-9)
        images = self._since_start(self._ends[-1])
        if waited > MUCH_WAITING * elapsed:
            t.emit(
                Notice(
                    f"{waited / elapsed:.0%} of the time was spent waiting for pixels: "
                    f"{images / elapsed:.1f} images/s, without that {images / computing:.1f}; "
                    f"{t.photos.store.remedy()}"
                )
            )
        elif t.device.torch_device.type == "cpu" and t.device.world == 1:
            # What the loader's thread computes counts too, so that a little less is noticed.
            advise_threads(t, (time.process_time() - self._computed) / computing)

    def _since_start(self, done: int) -> int:
        """Images of this sitting, of so many of the epoch."""
        return int(done - (self._ends[self._first - 1] if self._first else 0))


def advise_threads(training: Training, had: float) -> None:
    """Say that torch's threads had few processors, of which ``had`` were used in the mean.

    Threads that wait for one another spin, so that all processors are used; unless they were told
    to sleep, which cannot be judged.
    """
    threads = torch.get_num_threads()
    sleeping = os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
    if threads == 1 or sleeping or had >= FEW_PROCESSORS * threads:
        return
    text = f"torch's {threads} threads had {had:.1f} processors: other work takes the rest"
    fewer = f"OMP_NUM_THREADS={max(1, int(had))}"
    training.emit(Notice(f"{text}, and all threads wait for the last; {fewer} may be faster"))
