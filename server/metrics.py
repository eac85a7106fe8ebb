"""``GET /metrics``: the figures of ``GET /stats`` as Prometheus reads them.

Nothing is counted twice: each scrape turns the figures that the processes have into text. A series has the
worker and its process as labels. A worker that replaces another is another process, so its counters begin new
series in place of falling. There is no series with the sum of all, which would count everything twice in
``sum(…)``: ``sum without (worker, process)`` gives it.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, TypeAlias

from aiohttp import hdrs, web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LABELS: Final = ("worker", "process")
FRONT: Final = "front"  # as the worker of the process before the workers
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # calls

Stats: TypeAlias = Mapping[str, Any]

# Name, what it is, and its figure in /stats. Names get their _total from the encoder.
GAUGES: Final = (
    ("percepnet_calls", "Calls that have a voice, those that connect included.", "calls"),
    ("percepnet_listeners", "Listeners of what others publish.", "listeners"),
    ("percepnet_rated_calls", "Calls that are enhanced in time; further ones are refused.", "rated_calls"),
    ("percepnet_dry_calls", "Calls on dry audio now for lack of time.", "shed"),
    ("percepnet_failed_calls", "Calls on dry audio now because enhancing them fails.", "failed"),
    ("percepnet_draining", "1 while no new calls are taken because the process ends.", "draining"),
)
COUNTERS: Final = (
    ("percepnet_calls_began", "Calls that began, listeners included.", "began"),
    (
        "percepnet_calls_refused",
        "Offers that a worker could not take, listeners included; another may have.",
        "refused",
    ),
    ("percepnet_calls_shed", "Times that a call was put on dry audio for lack of time.", "sheds"),
)
PACKETS: Final = (
    ("received", "RTP packets that came."),
    ("lost", "RTP packets given up as lost."),
    ("late", "RTP packets that came after they were given up."),
    ("duplicate", "RTP packets that came twice."),
    ("reordered", "RTP packets that came behind one that was sent later."),
    ("stray", "RTP packets far out of the sequence."),
    ("recovered", "Lost packets restored from the redundancy of the next."),
    ("concealed", "Lost packets whose audio was guessed."),
    ("undecodable", "RTP packets that held no audio."),
    ("dropped", "Packets that full queues pushed out."),
    ("shed", "Packets of 20 ms sent dry because the call was shed."),
    ("passed", "Packets of 20 ms sent dry past an engine that took too long."),
)
PROCESS_COUNTERS: Final = (("percepnet_cpu_seconds", "Processor time since start.", "cpu_s"),)
PROCESS_GAUGES: Final = (
    ("percepnet_resident_memory_bytes", "Memory in use.", "rss_bytes"),
    ("percepnet_open_fds", "File descriptors in use, sockets included.", "fds"),
    ("percepnet_threads", "Threads.", "threads"),
    ("percepnet_tasks", "Tasks of the event loop.", "tasks"),
)


class Figures(Collector):
    """The answer of ``GET /stats`` as metrics."""

    def __init__(self, stats: Stats) -> None:
        self._workers: list[Stats] = stats["workers"]
        self._answers: Mapping[str, int] = stats["answers"]
        self._processes = list(self._workers)
        if "front" in stats:
            self._processes.append({"worker": FRONT, **stats["front"]})

    def collect(self) -> Iterator[Metric]:
        for name, about, key in GAUGES:
            yield _family(GaugeMetricFamily, name, about, key, self._workers)
        for name, about, key in COUNTERS:
            yield _family(CounterMetricFamily, name, about, key, self._workers)
        for name, about, key in PROCESS_GAUGES:
            yield _family(GaugeMetricFamily, name, about, key, self._processes)
        for name, about, key in PROCESS_COUNTERS:
            yield _family(CounterMetricFamily, name, about, key, self._processes)
        about = "Offers answered with each status, by the process that callers reach."
        family = CounterMetricFamily("percepnet_offers", about, labels=(*LABELS, "code"))
        for code, count in self._answers.items():
            family.add_metric((*_labels(self._processes[-1]), code), count)
        yield family
        yield from self._packets()
        yield from self._histograms()

    def _packets(self) -> Iterator[Metric]:
        about = "Packets of 20 ms that came to the engine, and that left it."
        family = CounterMetricFamily("percepnet_packets", about, labels=(*LABELS, "direction"))
        for worker in self._workers:
            for direction in ("in", "out"):
                family.add_metric((*_labels(worker), direction), worker["packets"].get(direction, 0))
        yield family
        for key, about in PACKETS:
            counts = [{**worker, key: worker["packets"].get(key, 0)} for worker in self._workers]
            yield _family(CounterMetricFamily, f"percepnet_packets_{key}", about, key, counts)

    def _histograms(self) -> Iterator[Metric]:
        about = "Calls whose packets were enhanced together."
        sizes = HistogramMetricFamily("percepnet_batch_size", about, labels=LABELS)
        about = "Time that enhancing a batch took."
        steps = HistogramMetricFamily("percepnet_step_seconds", about, labels=LABELS)
        about = "Time from a packet in to its packet out, without the algorithm's 0.03 s."
        delays = HistogramMetricFamily("percepnet_delay_seconds", about, labels=LABELS)
        for worker in self._workers:
            counts = {int(size): count for size, count in worker["batches"].items()}
            buckets = [
                (str(float(most)), sum(n for size, n in counts.items() if size <= most))
                for most in BATCH_BOUNDS
            ]
            buckets.append(("+Inf", sum(counts.values())))
            sizes.add_metric(_labels(worker), buckets, sum(size * n for size, n in counts.items()))
            steps.add_metric(_labels(worker), *_buckets(worker["step_s"]))
            delays.add_metric(_labels(worker), *_buckets(worker["delay_s"]))
        yield from (sizes, steps, delays)


def exposed(request: web.Request, stats: Stats) -> web.Response:
    """``stats`` in the format that the scraper asks for: Prometheus' own, or OpenMetrics."""
    try:
        encode, content_type = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    body = encode(Figures(stats))
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    about: str,
    key: str,
    processes: Iterable[Stats],
) -> Metric:
    """Series of one figure; a process that does not know it has none."""
    family = kind(name, about, labels=LABELS)
    for process in processes:
        if process[key] is not None:
            family.add_metric(_labels(process), process[key])
    return family


def _labels(process: Stats) -> tuple[str, str]:
    return str(process["worker"]), str(process["pid"])


def _buckets(histogram: Stats) -> tuple[list[tuple[str, float]], float]:
    bounds = [*map(str, histogram["bounds"]), "+Inf"]
    return list(zip(bounds, accumulate(histogram["counts"]), strict=True)), histogram["sum"]
