"""Reduces the engine's messages during a pull to progress snapshots. Pure: time is an argument.

Layers that the host already had do not count. Sums decrease only when the engine restarts the download of a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aima_core.domain.operations import Layer, LayerStep, PullProgress
from aima_worker.transfers import RateWindow


@dataclass(slots=True)
class _Layer:
    id: str
    step: LayerStep = LayerStep.WAITING
    downloaded: int = 0
    extracted: int = 0
    total: int | None = None

    def advance(self, step: LayerStep, status: str, detail: Mapping[str, Any]) -> bool:
        """Returns whether the message proves progress that no number shows."""
        self.step = step
        # With containerd's image store, the engine reports the seconds of an extraction, not its bytes.
        in_bytes = "units" not in detail
        if in_bytes:
            self.total = detail.get("total") or self.total
        if status == "Downloading":
            self.downloaded = detail.get("current", self.downloaded)
        elif step in (LayerStep.DOWNLOADING, LayerStep.EXTRACTING, LayerStep.DONE):
            self.downloaded = self.total if self.total is not None else self.downloaded
        if step is LayerStep.EXTRACTING and in_bytes:
            self.extracted = max(self.extracted, detail.get("current", 0))
        elif step is LayerStep.DONE:
            self.extracted = self.downloaded
        return not in_bytes


class PullTracker:
    """The state of one pull: `take` each message once, in order; `progress` is a snapshot. Not thread-safe."""

    def __init__(self, image: str, *, now: float) -> None:
        self._image = image
        self._layers: dict[str, _Layer] = {}
        self._received = 0
        self._restarts = 0
        self._window = RateWindow()
        self.moved_at = now
        """When a byte last arrived, an extraction last advanced, or a layer last changed its step."""
        self.complete = False
        """Whether the engine has reported success."""

    def take(self, message: Mapping[str, Any], *, now: float) -> None:
        status = str(message.get("status", ""))
        if status.startswith(("Digest: ", "Status: ")):
            self.complete = True
        elif (step := _STEPS.get("Waiting" if status.startswith("Retrying in") else status)) is not None:
            layer_id = str(message.get("id", ""))
            if layer_id not in self._layers:
                self._layers[layer_id] = _Layer(layer_id)
                self.moved_at = now
            self._advance(self._layers[layer_id], step, message, now)

    def progress(self, *, now: float) -> PullProgress:
        new = [layer for layer in self._layers.values() if layer.step is not LayerStep.EXISTS]
        total = sum(layer.total or 0 for layer in new)
        downloaded = sum(layer.downloaded for layer in new)
        total_known = bool(new or self.complete) and all(layer.total is not None for layer in new)
        rate = self._rate(now)
        return PullProgress(
            image=self._image,
            downloaded=downloaded,
            extracted=sum(layer.extracted for layer in new),
            total=total,
            total_known=total_known,
            rate=rate,
            eta=timedelta(seconds=round((total - downloaded) / rate, 1)) if rate and total_known else None,
            layers=tuple(Layer.model_validate(at, from_attributes=True) for at in self._layers.values()),
            restarts=self._restarts,
        )

    @property
    def waits_for(self) -> str:
        """The step that a stalled pull is blocked at: `layer 3f2a…`, or the step before the first layer."""
        unfinished = [layer for layer in self._layers.values() if layer.step not in (LayerStep.DONE, LayerStep.EXISTS)]
        begun = [layer for layer in unfinished if layer.step is not LayerStep.WAITING]
        first = next(iter(begun or unfinished), None)
        if first is None:
            return "the end of the pull" if self._layers else "the manifest"
        return f"layer {first.id}"

    def _advance(self, layer: _Layer, step: LayerStep, message: Mapping[str, Any], now: float) -> None:
        before = (layer.step, layer.downloaded, layer.extracted)
        alive = layer.advance(step, message["status"], message.get("progressDetail") or {})
        gained = layer.downloaded - before[1]
        self._received += max(gained, 0)
        self._restarts += gained < 0
        if alive or before != (layer.step, layer.downloaded, layer.extracted):
            self.moved_at = now
        self._window.add(self._received, now=now)

    def _rate(self, now: float) -> float | None:
        arriving = (at.step is LayerStep.DOWNLOADING and at.downloaded != at.total for at in self._layers.values())
        return self._window.rate(self._received, now=now) if any(arriving) else None


_STEPS = {
    "Pulling fs layer": LayerStep.WAITING,
    "Waiting": LayerStep.WAITING,
    "Downloading": LayerStep.DOWNLOADING,
    "Verifying Checksum": LayerStep.DOWNLOADING,
    "Download complete": LayerStep.DOWNLOADING,
    "Extracting": LayerStep.EXTRACTING,
    "Pull complete": LayerStep.DONE,
    "Already exists": LayerStep.EXISTS,
}
