"""How long an epoch of training takes, and what makes it slow."""

from __future__ import annotations

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
        progress = self._training.progress
        progress.wait_seconds = self._waited + self._loader.waited
        done = self._ends[progress.step - 1]
        elapsed = self._elapsed
        self._training.emit(
            BatchDone(
                epoch=progress.epoch,
                role="train",
                done=done,
                total=self._ends[-1],
                images_per_second=self._since_start(done) / elapsed,
                wait_share=min(1.0, self._loader.waited / elapsed),
            )
        )

    def advise(self) -> None:
        """After the first epoch of a sitting that is long enough: say what makes it slow."""
        t, elapsed = self._training, self._elapsed
        if t.advised or elapsed < LONG_ENOUGH:
            return
        t.advised = True
        computing = max(elapsed - self._loader.waited, 1e-9)
        images = self._since_start(self._ends[-1])
        if computing < (1 - MUCH_WAITING) * elapsed:
            t.emit(
                Notice(
                    f"{1 - computing / elapsed:.0%} of the time was spent waiting for pixels: "
                    f"{images / elapsed:.1f} images/s, without that {images / computing:.1f}; "
                    f"{t.photos.store.remedy()}"
                )
            )
            return
        threads = torch.get_num_threads()
        had = (time.process_time() - self._computed) / computing
        on_cpu = t.device.torch_device.type == "cpu"
        if on_cpu and threads > 1 and had < FEW_PROCESSORS * threads:
            text = f"torch's {threads} threads had {had:.1f} processors: other work takes the rest"
            fewer = f"OMP_NUM_THREADS={max(1, int(had))}"
            t.emit(Notice(f"{text}, and all threads wait for the last; {fewer} may be faster"))

    def _since_start(self, done: int) -> int:
        """Images of this sitting, of so many of the epoch."""
        return int(done - (self._ends[self._first - 1] if self._first else 0))
