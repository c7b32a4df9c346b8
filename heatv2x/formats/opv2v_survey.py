"""What a tree of OPV2V's layout should hold, frame by frame, and what of it is broken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from heatv2x.errors import DataError
from heatv2x.files import read_bytes
from heatv2x.formats.cloud_files import CloudFiles
from heatv2x.formats.frame_index import FrameRecord
from heatv2x.formats.image import read_depth, read_rgb, read_visibility
from heatv2x.formats.opv2v_index import read_record
from heatv2x.formats.opv2v_layout import AgentFiles, FrameFiles, Layout, splits_of
from heatv2x.formats.opv2v_yaml import parse_hits, read_agent_yaml
from heatv2x.formats.tagged_yaml import MAX_BYTES
from heatv2x.structures import AgentFrame, Float64, Frame, PointCloud, Pose
from heatv2x.survey import Recognised, SensorFile, Visit

_OPV2V = {"train": 6764, "validate": 1981, "test": 2170, "test_culvercity": 549}
"""Frames per split as usually quoted: 2,719 in test with Culver City (facts: OPV2V, splits)."""
_ORDER = {"train": 0, "validate": 1, "test": 2}
_CAMERAS = 4
_ONLY_ADDITIONS = (
    "holds no descriptions (<t>.yaml): OPV2V itself, which has labels, images and 64-beam clouds, is missing"
)
_UNPACK = "download OPV2V and unpack it beside OPV2V_Hetero, then give the folder that holds both"
_Read = Callable[[Path], PointCloud | None]
WITHOUT_FOURTH_CAMERA = frozenset({"2021_09_09_13_20_58"})
"""Scenarios of V2XSet that were released with three cameras (facts: V2XSet)."""


def recognise(root: Path) -> Recognised | None:
    """OPV2V, OPV2V-H, V2XSet or the synthetic world, told from folder names; None if it is none of them."""
    opv2v = root / "OPV2V" if (root / "OPV2V").is_dir() else root.resolve()
    try:
        splits = sorted(splits_of(opv2v), key=lambda split: (_ORDER.get(split, len(_ORDER)), split))
    except DataError:
        return None
    if not splits:
        if (root / "OPV2V_Hetero").is_dir():
            raise DataError(root, _ONLY_ADDITIONS, way_out=_UNPACK)
        return None
    if not _holds(opv2v, splits, "*.yaml"):
        if any(_holds(opv2v, splits, pattern) for pattern in ("*_32.pcd", "*_16.pcd", "*_depth0.png")):
            raise DataError(root, _ONLY_ADDITIONS, way_out=_UNPACK)
        return None
    return Recognised(*_title(root, opv2v, splits))


def _title(root: Path, opv2v: Path, splits: list[str]) -> tuple[str, tuple[str, ...], Mapping[str, int]]:
    if (root / "manifest.json").exists():
        return "synthetic world in OPV2V-H's layout", tuple(splits), {}
    if opv2v.with_name(f"{opv2v.name}_Hetero").is_dir():
        return "OPV2V-H", tuple(splits), _OPV2V
    if any(True for split in splits for _ in (opv2v / split).glob("*/-*")):
        return "V2XSet", tuple(splits), {}
    return "OPV2V", tuple(splits), _OPV2V


def _holds(opv2v: Path, splits: list[str], pattern: str) -> bool:
    return any(True for split in splits for _ in (opv2v / split).glob(f"*/*/{pattern}"))


def survey(root: Path, split: str) -> Iterator[Visit]:
    """Every frame of a split, whatever is wrong with others."""
    layout = Layout.find(root, split)
    complaints: list[DataError] = []
    frames = layout.frames(complain=complaints.append)
    for error in complaints:
        yield Visit(f"{split}/{error.path.name}", faults=(("description" if error.path.suffix else "folder", error),))
    clouds = CloudFiles()
    for frame in frames:
        yield replace(_visit(layout, frame, clouds), of=len(frames))


def _visit(layout: Layout, frame: FrameFiles, clouds: CloudFiles) -> Visit:
    sources = {agent.agent_id: layout.opv2v / agent.yaml for agent in frame.agents}
    intrinsics: list[Mapping[str, Float64]] = [{} for _ in frame.agents]
    fault: DataError | None = None
    try:
        record = read_record(layout, frame)
        intrinsics = [{camera.name: camera.K for camera in cameras} for cameras in record.cameras]
    except DataError as error:
        fault = error
    files = tuple(
        file
        for agent, K in zip(frame.agents, intrinsics, strict=True)
        for file in _files(layout, frame, agent, K, clouds)
    )
    if fault is not None:
        faults = [fault for agent in frame.agents for fault in _faults(layout, agent)]
        return Visit(frame.name, None, files, tuple(faults) or (("description", fault),), sources)
    return Visit(frame.name, _as_frame(frame, record), files, (), sources)


def _as_frame(frame: FrameFiles, record: FrameRecord) -> Frame:
    agents = tuple(
        AgentFrame(agent.agent_id, frame.timestamp, Pose(T))
        for agent, T in zip(frame.agents, record.T_world_agent, strict=True)
    )
    return Frame(frame.scenario, frame.timestamp, agents, record.objects)


def _faults(layout: Layout, agent: AgentFiles) -> Iterator[tuple[str, DataError]]:
    """What is wrong with each file of an agent, not only with the first."""
    readers: tuple[tuple[str, str | None, Callable[[Path], object]], ...] = (
        ("description", agent.yaml, read_agent_yaml),
        ("hit counts", agent.hits, _hits),
        ("visibility raster", agent.visibility, read_visibility),
    )
    for kind, path, read in readers:
        if path is not None:
            try:
                read(layout.opv2v / path)
            except DataError as error:
                yield kind, error


def _files(
    layout: Layout, frame: FrameFiles, agent: AgentFiles, K: Mapping[str, Float64], clouds: CloudFiles
) -> Iterator[SensorFile]:
    def at(filename: str, hetero: bool = False) -> Path:
        return layout.sensor_file(frame.scenario, agent.folder, f"{frame.timestamp}{filename}", hetero=hetero)

    def file(kind: str, download: str, read: _Read, path: Path, needed: bool = False) -> SensorFile:
        return SensorFile(kind, agent.agent_id, download, needed, functools.partial(read, path), path)

    sweep = functools.partial(_sweep, clouds)
    yield file("64-beam cloud", "OPV2V", sweep, at(".pcd"), needed=True)
    yield file("32-beam cloud", "OPV2V-H-LiDAR", sweep, at("_32.pcd", hetero=True))
    yield file("16-beam cloud", "OPV2V-H-LiDAR", sweep, at("_16.pcd", hetero=True))
    for number in range(_CAMERAS - (frame.scenario in WITHOUT_FOURTH_CAMERA)):
        own = K.get(f"camera{number}")
        yield file("camera image", "OPV2V", functools.partial(_rgb, own), at(f"_camera{number}.png"))
        depth = functools.partial(_depth, own)
        yield file("depth image", "OPV2V-H-depth", depth, at(f"_depth{number}.png", hetero=True))
    stem = agent.yaml.removesuffix(".yaml")
    raster = layout.opv2v / (agent.visibility or f"additional/{stem}_bev_visibility.png")
    yield file("visibility raster", "OPV2V additional", _raster, raster)
    yield file("hit counts", "synthetic world", _hits, layout.opv2v / (agent.hits or f"{stem}_hits.json"))


def _sweep(clouds: CloudFiles, path: Path) -> PointCloud:
    cloud = clouds.read(path)
    cloud.points[:, 1] *= -1
    return cloud


def _rgb(K: Float64 | None, path: Path) -> None:
    read_rgb(path, K=K, simulated=True)


def _depth(K: Float64 | None, path: Path) -> None:
    read_depth(path, K=K)


def _raster(path: Path) -> None:
    read_visibility(path)


def _hits(path: Path) -> None:
    parse_hits(read_bytes(path, MAX_BYTES), path)
