"""Whether the agents' clocks agree, and whether time runs as frames do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of

MAX_APART_S = 0.1
"""Sensors at 10 Hz that are paired frame by frame are at most half a period apart, with some jitter."""
_NOTED_S = 0.055
_LONG_S = 60.0
_FAST_M_S = 100.0


@dataclass
class Clocks:
    """When the agents of each frame captured what they sense, gathered over a dataset."""

    apart: dict[tuple[str, str, int, int], list[float]] = field(default_factory=dict)
    steps: dict[tuple[str, str, int], list[tuple[float, float]]] = field(default_factory=dict)
    last: dict[tuple[str, str, int], tuple[float, tuple[float, float]]] = field(default_factory=dict)

    def add(
        self, split: str, scenario: str, times_us: Mapping[int, int], places: Mapping[int, tuple[float, float]]
    ) -> None:
        """Take in one frame: each agent's time in microseconds, and where it was."""
        agents = [agent for agent in places if agent in times_us]
        for agent in agents:
            time_s = times_us[agent] / 1e6
            if agent != agents[0]:
                key = (split, scenario, agents[0], agent)
                self.apart.setdefault(key, []).append(time_s - times_us[agents[0]] / 1e6)
            own = (split, scenario, agent)
            if (before := self.last.get(own)) is not None:
                moved = float(np.hypot(places[agent][0] - before[1][0], places[agent][1] - before[1][1]))
                self.steps.setdefault(own, []).append((time_s - before[0], moved))
            self.last[own] = time_s, places[agent]

    def verdicts(self) -> Iterator[Verdict]:
        """Clocks that differ, and time that does not run as it should."""
        wrong, unusual = [], []
        for (split, scenario, first, agent), apart in self.apart.items():
            median, most = float(np.median(apart)), max(apart, key=abs)
            seen = (
                f"its time differs from agent {first}'s of the same frame by {median:+.3f} s "
                f"(median of {len(apart)} frames, at most {abs(most):.3f} s)"
            )
            finding = Finding(
                "clocks", split, scenario, agent, seen, "the clocks are not synchronised, or frames are paired wrongly"
            )
            if abs(median) > MAX_APART_S:
                wrong.append(finding)
            elif abs(median) > _NOTED_S:
                unusual.append(finding)
        wrong += list(self._running())
        yield from verdicts_of("clocks", wrong)
        yield from verdicts_of("clocks", unusual, "note")
        if wrong or unusual:
            return
        if not self.apart:
            yield Verdict("clocks", "note", "not compared: no frame has several agents with times of their own")
            return
        most = max(abs(float(np.median(apart))) for apart in self.apart.values())
        yield Verdict("clocks", "ok", f"the agents of a frame are at most {most:.3f} s apart (medians)")

    def _running(self) -> Iterator[Finding]:
        for (split, scenario, agent), steps in self.steps.items():
            where = (split, scenario, agent)
            later = [(step, moved) for step, moved in steps if step > 0]  # DAIR-V2X pairs some frames twice
            if not later:
                if len(steps) > 1:
                    seen = f"time does not advance over {len(steps) + 1} frames"
                    yield Finding("time stands still", *where, seen, "the times are not those of the frames")
                continue
            median = float(np.median([step for step, _ in later]))
            fast = float(np.median([moved / step for step, moved in later]))
            if median > _LONG_S:
                unit = "milliseconds" if median < 1e4 else "microseconds" if median < 1e7 else "nanoseconds"
                seen = f"frames are {median:,.0f} s apart (median)"
                yield Finding("unit of time", *where, seen, f"the times are in {unit}, expected seconds")
            elif fast > _FAST_M_S:
                seen = f"the agent moves at {fast:,.0f} m/s (median)"
                yield Finding("speed", *where, seen, "times or positions are in another unit than seconds and metres")
