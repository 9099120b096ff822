"""The progress of a pull after each message."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aima_core.domain.operations import LayerStep, PullProgress
from aima_worker.runtimes.pull_progress import PullTracker

Said = tuple[float, str, str, dict[str, Any]]


def tracker_after(*said: Said) -> PullTracker:
    tracker = PullTracker("vllm:1", now=0)
    for at, layer, status, detail in said:
        tracker.take({"id": layer, "status": status, "progressDetail": detail}, now=at)
    return tracker


def progress_after(*said: Said) -> PullProgress:
    return tracker_after(*said).progress(now=said[-1][0])


def announced(layer: str, at: float = 0) -> Said:
    return at, layer, "Pulling fs layer", {}


def downloading(layer: str, current: int, total: int, at: float = 0) -> Said:
    return at, layer, "Downloading", {"current": current, "total": total}


def extracting(layer: str, current: int, total: int, at: float = 0) -> Said:
    return at, layer, "Extracting", {"current": current, "total": total}


def test_bytes_are_summed_over_the_layers() -> None:
    progress = progress_after(downloading("a", 30, 100), downloading("b", 5, 900))

    assert (progress.downloaded, progress.total, progress.extracted) == (35, 1000, 0)


def test_the_total_is_a_lower_bound_until_every_layer_has_reported_its_size() -> None:
    before = progress_after(announced("a"), announced("b"), downloading("a", 30, 100))
    after = progress_after(announced("a"), announced("b"), downloading("a", 30, 100), downloading("b", 1, 900))

    assert (before.total, before.total_known) == (100, False)
    assert (after.total, after.total_known) == (1000, True)


def test_nothing_is_known_before_the_first_message() -> None:
    progress = PullTracker("vllm:1", now=0).progress(now=0)

    assert (progress.downloaded, progress.total, progress.total_known) == (0, 0, False)


def test_layers_that_were_present_do_not_count() -> None:
    progress = progress_after((0, "a", "Already exists", {}), downloading("b", 5, 900))

    assert (progress.downloaded, progress.total, progress.total_known) == (5, 900, True)
    assert [layer.step for layer in progress.layers] == [LayerStep.EXISTS, LayerStep.DOWNLOADING]


def test_the_announced_tag_is_not_counted_as_a_layer() -> None:
    progress = progress_after((0, "latest", "Pulling from library/busybox", {}), announced("a"))

    assert [layer.id for layer in progress.layers] == ["a"]


def test_a_layer_whose_download_is_complete_has_all_its_bytes() -> None:
    progress = progress_after(downloading("a", 90, 100), (1, "a", "Download complete", {}))

    assert progress.downloaded == 100


def test_extraction_counts_the_compressed_bytes_unpacked() -> None:
    progress = progress_after(downloading("a", 100, 100), extracting("a", 40, 100))

    assert (progress.downloaded, progress.extracted) == (100, 40)


def test_a_layer_without_download_messages_counts_by_its_extraction() -> None:
    progress = progress_after(announced("a"), (0, "a", "Download complete", {}), extracting("a", 32, 32))

    assert (progress.downloaded, progress.extracted, progress.total, progress.total_known) == (32, 32, 32, True)


def test_a_finished_layer_counts_as_downloaded_and_extracted() -> None:
    progress = progress_after(downloading("a", 90, 100), (1, "a", "Pull complete", {}))

    assert (progress.downloaded, progress.extracted) == (100, 100)
    assert progress.layers[0].step is LayerStep.DONE


def test_an_extraction_reported_in_seconds_is_not_counted_as_bytes() -> None:
    progress = progress_after(downloading("a", 100, 100), (3, "a", "Extracting", {"current": 7, "units": "s"}))

    assert (progress.extracted, progress.total) == (0, 100)
    assert progress.layers[0].step is LayerStep.EXTRACTING


def test_the_rate_covers_the_last_seconds_and_not_the_whole_pull() -> None:
    fast_then_slow = [downloading("a", 1000 * second, 100_000, at=second) for second in range(1, 11)]
    fast_then_slow += [downloading("a", 10_000 + 10 * second, 100_000, at=10 + second) for second in range(1, 11)]

    progress = progress_after(*fast_then_slow)

    assert progress.rate == 10
    assert progress.eta == timedelta(seconds=(100_000 - 10_100) / 10)


def test_there_is_no_rate_from_a_single_sample() -> None:
    progress = progress_after(downloading("a", 50, 100, at=0), downloading("a", 60, 100, at=0.1))

    assert (progress.rate, progress.eta) == (None, None)


def test_there_is_no_eta_while_the_total_is_unknown() -> None:
    progress = progress_after(announced("b"), downloading("a", 10, 100, at=0), downloading("a", 60, 100, at=1))

    assert progress.rate == 60
    assert progress.eta is None


def test_there_is_no_rate_while_nothing_is_downloading() -> None:
    progress = progress_after(
        downloading("a", 10, 100, at=0), downloading("a", 100, 100, at=1), extracting("a", 10, 100, at=2)
    )

    assert (progress.rate, progress.eta) == (None, None)


def test_the_rate_falls_to_zero_while_no_bytes_arrive() -> None:
    tracker = tracker_after(downloading("a", 10, 100, at=0), downloading("a", 60, 100, at=1))

    assert tracker.progress(now=1).rate == 50
    assert tracker.progress(now=10).rate == 5


def test_a_layer_that_is_downloaded_again_reports_the_rollback() -> None:
    progress = progress_after(
        downloading("a", 80, 100), (1, "a", "Retrying in 5 seconds", {}), downloading("a", 10, 100, at=6)
    )

    assert (progress.downloaded, progress.restarts) == (10, 1)


def test_bytes_downloaded_again_count_in_the_rate() -> None:
    progress = progress_after(
        downloading("a", 80, 100, at=0), downloading("a", 0, 100, at=1), downloading("a", 40, 100, at=2)
    )

    assert progress.rate == 20


def test_only_bytes_extraction_and_status_changes_count_as_progress() -> None:
    assert tracker_after(downloading("a", 1, 9, at=1), downloading("a", 2, 9, at=5)).moved_at == 5
    assert tracker_after(extracting("a", 1, 9, at=1), extracting("a", 2, 9, at=5)).moved_at == 5
    assert tracker_after(downloading("a", 9, 9, at=1), (5, "a", "Pull complete", {})).moved_at == 5
    assert tracker_after((1, "a", "Extracting", {"current": 1, "units": "s"}), announced("b", at=5)).moved_at == 5

    assert tracker_after(downloading("a", 1, 9, at=1), downloading("a", 1, 9, at=5)).moved_at == 1
    assert tracker_after((1, "a", "Retrying in 5 seconds", {}), (2, "a", "Retrying in 4 seconds", {})).moved_at == 1


def test_a_pull_is_complete_once_the_docker_engine_reports_it() -> None:
    tracker = tracker_after((0, "a", "Already exists", {}))
    before = tracker.complete

    tracker.take({"status": "Digest: sha256:abc"}, now=1)

    assert (before, tracker.complete) == (False, True)
    assert tracker.progress(now=1).total_known


def test_a_stalled_pull_names_the_layer_or_step_at_which_it_stalls() -> None:
    assert PullTracker("vllm:1", now=0).waits_for == "the manifest"
    assert tracker_after(announced("a"), announced("b"), downloading("b", 1, 9)).waits_for == "layer b"
    assert tracker_after(announced("a")).waits_for == "layer a"
    assert tracker_after(downloading("a", 9, 9), (1, "a", "Pull complete", {})).waits_for == "the end of the pull"
