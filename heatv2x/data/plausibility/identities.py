"""Whether objects keep their ids, sizes and directions from frame to frame, and places from agent to agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from heatv2x.data.plausibility.verdict import Finding, Verdict, verdicts_of
from heatv2x.structures import Float64, Frame, Int64

_SAME_PLACE_M = 0.5
_ENOUGH = 8
_MOVED_M = 1.0
_APART_M = 0.7

Sightings = Mapping[int, tuple[Int64, Float64]]


@dataclass
class Identities:
    """What becomes of objects, gathered scenario by scenario."""

    kept: dict[tuple[str, str], list[bool]] = field(default_factory=dict)
    resized: dict[tuple[str, str], list[bool]] = field(default_factory=dict)
    backwards: dict[tuple[str, str], list[bool]] = field(default_factory=dict)
    apart: dict[tuple[str, str, int, int], list[tuple[float, float]]] = field(default_factory=dict)
    wide: list[bool] = field(default_factory=list)

    def add(self, split: str, frame: Frame, before: Frame | None, sightings: Sightings) -> None:
        """Take in a frame, the one before it in the same scenario, and where each agent itself places objects."""
        objects, where = frame.objects, (split, frame.scenario)
        self.wide += (objects.size[:, 1] > 1.05 * objects.size[:, 0]).tolist()
        self._between_agents(where, frame, sightings)
        if before is None or not len(objects) or not len(before.objects):
            return
        old = before.objects
        now, then = objects.T_world_object[:, :3, 3], old.T_world_object[:, :3, 3]
        apart = np.linalg.norm(now[:, None] - then[None], axis=2)
        near = apart.argmin(axis=1)
        for row, other in enumerate(near):
            same = np.allclose(objects.size[row], old.size[other], atol=0.05)
            if apart[row, other] < _SAME_PLACE_M and same and apart[:, other].argmin() == row:
                self.kept.setdefault(where, []).append(bool(objects.ids[row] == old.ids[other]))
        rows_of = {int(each): row for row, each in enumerate(old.ids)}
        for row, each in enumerate(objects.ids):
            if (other := rows_of.get(int(each))) is None:
                continue
            change = np.abs(objects.size[row] / old.size[other] - 1).max()
            self.resized.setdefault(where, []).append(bool(change > 0.25))
            moved = now[row] - then[other]
            if np.hypot(*moved[:2]) > _MOVED_M:
                ahead = objects.T_world_object[row, :3, 0]
                self.backwards.setdefault(where, []).append(bool(moved @ ahead < -0.7 * np.linalg.norm(moved)))

    def _between_agents(self, where: tuple[str, str], frame: Frame, sightings: Sightings) -> None:
        agents = list(sightings)
        speed = dict(zip(frame.objects.ids.tolist(), frame.objects.speed.tolist(), strict=True))
        for number, agent in enumerate(agents):
            for other in agents[:number]:
                mine, theirs = sightings[agent], sightings[other]
                _, rows, columns = np.intersect1d(mine[0], theirs[0], return_indices=True)
                apart = np.linalg.norm(mine[1][rows] - theirs[1][columns], axis=1)
                speeds = [speed.get(int(each), np.nan) for each in mine[0][rows]]
                self.apart.setdefault((*where, other, agent), []).extend(zip(apart.tolist(), speeds, strict=True))

    def verdicts(self, tracked: bool) -> Iterator[Verdict]:
        """What does not stay as it was; ids are judged only if the dataset follows objects."""
        found: list[Finding] = list(self._places())
        if len(self.wide) >= _ENOUGH and np.mean(self.wide) > 0.5:
            seen = f"{sum(self.wide):,} of {len(self.wide):,} labelled objects are wider than long"
            yield Verdict("objects", "fault", f"{seen}. Most likely cause: length and width of the boxes are swapped")
        for where, turned in self.backwards.items() if tracked else ():
            if len(turned) >= _ENOUGH and np.mean(turned) > 0.5:
                seen = f"{sum(turned)} of {len(turned)} moving objects move against their heading"
                found.append(Finding("backwards", *where, None, seen, "the headings of the boxes are off by 180°"))
        for where, kept in self.kept.items() if tracked else ():
            if len(kept) >= _ENOUGH and np.mean(kept) < 0.5:
                lost = len(kept) - sum(kept)
                seen = f"{lost} of {len(kept)} objects that do not move have a different id in the next frame"
                found.append(
                    Finding("ids", *where, None, seen, "ids are renumbered in every frame, expected one id per object")
                )
        for where, resized in self.resized.items() if tracked else ():
            if len(resized) >= _ENOUGH and np.mean(resized) > 0.3:
                seen = f"{sum(resized)} of {len(resized)} ids have a different size in the next frame"
                found.append(Finding("ids", *where, None, seen, "ids are given to other objects in every frame"))
        yield from verdicts_of("objects", found)

    def _places(self) -> Iterator[Finding]:
        for (split, scenario, other, agent), pairs in self.apart.items():
            apart = np.array([each for each, _ in pairs])
            speed = np.array([each for _, each in pairs])
            moving, parked = speed > 2, speed < 0.5
            late = apart[moving] / speed[moving]
            far = float(np.median(apart)) if len(apart) else 0.0
            seen = (
                f"places the {len(apart)} objects that agent {other} also labels {far:.1f} m away from there (median)"
            )
            if (
                moving.sum() >= _ENOUGH // 2
                and np.median(apart[moving]) > _APART_M
                and (not parked.any() or np.median(apart[parked]) < 0.3)
            ):
                far = float(np.median(apart[moving]))
                seen = f"places {moving.sum()} moving objects {far:.1f} m away from where agent {other} does (median)"
                cause = (
                    f"their frames are {np.median(late):.2f} s apart: unsynchronised clocks, or frames paired wrongly"
                )
                yield Finding("clocks apart", split, scenario, agent, seen, cause)
            elif len(apart) >= _ENOUGH // 2 and np.median(apart) > _APART_M:
                yield Finding(
                    "places",
                    split,
                    scenario,
                    agent,
                    seen,
                    "the labels of one of them are in another frame, or from another time",
                )
