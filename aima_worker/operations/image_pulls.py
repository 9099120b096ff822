"""Pull coordinator: one pull per image on this host, shared by all operations that need the image.

Each follows its progress and can leave by itself; the last to leave closes the pull.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from threading import Condition, Thread

from aima_core.domain.operations import PullProgress
from aima_core.errors import AimaError
from aima_worker.attempt import Attempt
from aima_worker.runtime import ContainerRuntime, PullStream


class PullCoordinator:
    def __init__(self, runtime: ContainerRuntime, *, stall: timedelta) -> None:
        self._runtime = runtime
        self._stall = stall
        self._pulls: dict[str, _Pull] = {}
        self._changed = Condition()

    def follow(self, image: str, attempt: Attempt) -> Iterator[PullProgress]:
        """Joins the image's pull, or starts it; yields its progress and ends when the image is present.

        Raises what the runtime's pull raises, and at once what cancels the attempt.
        """
        pull = self._join(image)
        try:
            with attempt.close_on_cancel(self._wake):
                yield from self._progress_of(pull, attempt)
        finally:
            self._leave(image, pull)

    def _progress_of(self, pull: _Pull, attempt: Attempt) -> Iterator[PullProgress]:
        seen: PullProgress | None = None
        while True:
            with self._changed:
                while not (pull.done or pull.progress is not seen or attempt.cancelled):
                    self._changed.wait()
                latest, done = pull.progress, pull.done
            attempt.raise_if_cancelled()
            if latest is not None and latest is not seen:
                yield latest
                seen = latest
            elif done:
                break
        if pull.failure is not None:
            raise pull.failure

    def _join(self, image: str) -> _Pull:
        with self._changed:
            pull = self._pulls.get(image)
            if pull is None or pull.done:
                pull = self._pulls[image] = _Pull(self._runtime.pull(image, stall=self._stall))
                Thread(target=self._run, args=(pull,), name=f"pull {image}", daemon=True).start()
            pull.followers += 1
            return pull

    def _leave(self, image: str, pull: _Pull) -> None:
        with self._changed:
            pull.followers -= 1
            abandoned = pull.followers == 0
            if abandoned and self._pulls.get(image) is pull:
                del self._pulls[image]
        if abandoned:
            pull.stream.close()

    def _run(self, pull: _Pull) -> None:
        failure: AimaError | None = AimaError(detail="the pull thread died")
        try:
            for progress in pull.stream:
                pull.progress = progress
                self._wake()
            failure = None
        except AimaError as failed:
            failure = failed
        finally:
            pull.failure, pull.done = failure, True
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Pull:
    def __init__(self, stream: PullStream) -> None:
        self.stream = stream
        self.progress: PullProgress | None = None
        self.failure: AimaError | None = None
        self.done = False
        self.followers = 0
