"""Figures of sidecars, ready for JSON."""

from server.engine import Engine
from server.figures import process_figures
from server.port import Port


def of_engine(engine: Engine) -> dict[str, object]:
    """And of the process."""
    return {
        "shed": engine.shed_calls,
        "failed": engine.failed_calls,
        "batches": engine.batches.counts(),
        "step_ms": engine.batches.step_ms(),
        **process_figures(),
    }


def of_twin(
    port: Port, skipped: int, delays_ms: tuple[float, float] | None, **packets: int | None
) -> dict[str, object]:
    """Levels in dBFS, times in ms. ``skipped`` outside of the engine; ``packets``: further counts of them."""
    figures = port.figures
    p50, p99 = delays_ms or (None, None)
    return {
        "enhancement": port.enhancement,
        "packets": {
            "in": figures.packets_in,
            "out": figures.packets_out,
            "dropped": figures.dropped + skipped,
            "shed": figures.shed_packets,
            **packets,
        },
        "level": {"in_dbfs": round(figures.level_in_db, 1), "out_dbfs": round(figures.level_out_db, 1)},
        "delay": {"server_p50_ms": p50 and round(p50, 3), "server_p99_ms": p99 and round(p99, 3)},
    }
