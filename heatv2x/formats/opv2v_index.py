"""A split of OPV2V's layout as records: every agent's file parsed, and the union of what the agents list."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from heatv2x.errors import DataError
from heatv2x.formats.frame_index import Contents, open_records
from heatv2x.formats.frame_record import FrameRecord
from heatv2x.formats.image import read_visibility, visible_at
from heatv2x.formats.opv2v_layout import AgentFiles, FrameFiles, Layout
from heatv2x.formats.opv2v_yaml import AgentRecord, Seen, parse_agent_yaml, parse_hits
from heatv2x.formats.packed_records import IndexedRecords
from heatv2x.structures import Int32, Int64, Objects, Pose

_log = logging.getLogger(__name__)


def open_index(layout: Layout, cache_dir: Path | None = None, exclude: Collection[str] = ()) -> Sequence[FrameRecord]:
    """The records of all frames of a split, from the index where it is current, from the files where it is not.

    Args:
        layout: where the dataset lies.
        cache_dir: where the index is kept; `default_cache_dir()` if None.
        exclude: scenarios that are left out.

    Raises:
        DataError: a descriptive file is missing or corrupt; names file, key and way out.
    """
    records = open_records(layout.opv2v, layout.split, layout.frames(exclude), _read, cache_dir)
    if isinstance(records, IndexedRecords):
        without_center = records.without_center
    else:
        without_center = sum(record.without_center for record in records)
    if without_center:
        message = "%s: %d object labels have no 'center'; their boxes sit on the reference point, half a height too low"
        _log.warning(message, layout.opv2v / layout.split, without_center)
    return records


def read_record(layout: Layout, frame: FrameFiles) -> FrameRecord:
    """The record of one frame, from its files.

    Raises:
        DataError: one of them is missing or corrupt; names file, key and way out.
    """
    return _read(frame, Contents(layout.opv2v, []))


def _read(frame: FrameFiles, files_of: Contents) -> FrameRecord:
    root = files_of.root
    agents: list[AgentRecord] = []
    seen: list[dict[int, Seen] | None] = []
    for files in frame.agents:
        contents = {path: files_of.read(path) for path in files.present}
        agents.append(parse_agent_yaml(contents[files.yaml], root / files.yaml))
        seen.append(None if files.hits is None else parse_hits(contents[files.hits], root / files.hits))
    labelled = any(agent.labelled for agent in agents)
    for files, agent in zip(frame.agents, agents, strict=True):
        if labelled and not agent.labelled:
            problem = "the key is missing, but other agents of this frame have labels"
            way_out = "write `vehicles: {}` if this agent sees none, or leave the key out for all agents of the frame"
            raise DataError(root / files.yaml, problem, key="vehicles", way_out=way_out)
    return FrameRecord(
        name=frame.name,
        folders=tuple(files.folder for files in frame.agents),
        T_world_agent=np.stack([agent.T_world_agent for agent in agents]),
        cameras=tuple(agent.cameras for agent in agents),
        objects=_union(root, frame, agents, seen),
        without_center=sum(agent.without_center for agent in agents),
        stamps=tuple(files_of.stamps),
        labelled=labelled,
    )


def _union(root: Path, frame: FrameFiles, agents: list[AgentRecord], seen: list[dict[int, Seen] | None]) -> Objects:
    everything = np.concatenate([agent.ids for agent in agents])
    _, first = np.unique(everything, return_index=True)
    first = np.sort(first)
    ids = everything[first]
    T_world_object = np.concatenate([agent.T_world_object for agent in agents])[first]
    hits = np.zeros((len(ids), len(agents)), np.int32)
    visible = np.zeros((len(ids), len(agents)), np.bool_)
    for column, (files, agent, sidecar) in enumerate(zip(frame.agents, agents, seen, strict=True)):
        hits[:, column] = _hits(ids, agent, sidecar, root, files)
        if sidecar is not None:
            visible[:, column] = [int(i) in sidecar and sidecar[int(i)].camera_visible for i in ids]
        elif files.visibility is not None:
            centres = Pose(agent.T_world_agent).inverse() @ T_world_object[:, :, 3:]
            visible[:, column] = visible_at(read_visibility(root / files.visibility), centres[:, :2, 0])
    return Objects(
        ids=ids,
        T_world_object=T_world_object,
        size=np.concatenate([agent.size for agent in agents])[first],
        speed=np.concatenate([agent.speed for agent in agents])[first],
        hits=hits,
        camera_visible=visible,
        counted=all(sidecar is not None for sidecar in seen),
    )


def _hits(ids: Int64, agent: AgentRecord, sidecar: dict[int, Seen] | None, root: Path, files: AgentFiles) -> Int32:
    listed = np.isin(ids, agent.ids)
    if sidecar is None:
        return listed.astype(np.int32)
    if missing := [int(i) for i in agent.ids if int(i) not in sidecar]:
        path, way_out = root / str(files.hits), "write the sidecar again, or delete it to go without hit counts"
        raise DataError(path, f"lacks objects that {Path(files.yaml).name} lists", key=str(missing[0]), way_out=way_out)
    return np.array([sidecar[int(i)].hits if here else 0 for i, here in zip(ids, listed, strict=True)], np.int32)
