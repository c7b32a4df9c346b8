"""What a tree of OPV2V's layout should hold, frame by frame, and what of it is broken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heatv2x.core.files import read_bytes
from heatv2x.data.survey import Recognised, Sensed, SensorFile, Visit
from heatv2x.errors import DataError
from heatv2x.formats.cloud_files import CloudFiles
from heatv2x.formats.frame_record import CameraRecord, FrameRecord
from heatv2x.formats.image import read_depth, read_rgb, read_visibility
from heatv2x.formats.opv2v_index import read_record
from heatv2x.formats.opv2v_layout import AgentFiles, FrameFiles, Layout, splits_of
from heatv2x.formats.opv2v_yaml import parse_hits, read_agent_yaml
from heatv2x.formats.tagged_yaml import MAX_BYTES
from heatv2x.structures import AgentFrame, Camera, Float64, Frame, Int64, PointCloud, Pose

_OPV2V = {"train": 6764, "validate": 1981, "test": 2170, "test_culvercity": 549}
"""Frames per split as usually quoted: 2,719 in test with Culver City; not counted by us."""
_ORDER = {"train": 0, "validate": 1, "test": 2}
_CAMERAS = 4
_IMAGE, _DEPTH_IMAGE = "camera image", "depth image"
_ONLY_ADDITIONS = (
    "holds no descriptions (<t>.yaml): OPV2V itself, which has labels, images and 64-beam clouds, is missing"
)
_ADDITIONS = ("*_32.pcd", "*_16.pcd", "*_depth0.png")
_ELSEWHERE = (
    "the additions of OPV2V-H were found and checked in {0}; rename it to OPV2V_Hetero, or set "
    "dataset.settings.hetero_root={0} wherever the dataset is read"
)
_UNPACK = "download OPV2V and unpack it beside OPV2V_Hetero, then give the folder that holds both"
_Read = Callable[[Path], Sensed]
WITHOUT_FOURTH_CAMERA = frozenset({"2021_09_09_13_20_58"})
"""Scenarios of V2XSet that were released with three cameras; HEAL (yifanlu0227/HEAL) leaves them out, too."""


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
        if any(_holds(opv2v, splits, pattern) for pattern in _ADDITIONS):
            raise DataError(root, _ONLY_ADDITIONS, way_out=_UNPACK)
        return None
    elsewhere = additions_elsewhere(root)
    notes = () if elsewhere is None else (_ELSEWHERE.format(elsewhere),)
    return Recognised(*_title(root, opv2v, splits), notes=notes)


def additions_elsewhere(root: Path) -> Path | None:
    """The only folder beside OPV2V that holds its additions under another name than OPV2V_Hetero; None without it."""
    opv2v = root / "OPV2V" if (root / "OPV2V").is_dir() else root.resolve()
    if opv2v == root.resolve() or opv2v.with_name(f"{opv2v.name}_Hetero").is_dir():
        return None
    try:
        beside = sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name != opv2v.name)
        splits = splits_of(opv2v)
    except (OSError, DataError):
        return None
    found = [folder for folder in beside if any(_holds(folder, splits, pattern) for pattern in _ADDITIONS)]
    return found[0] if len(found) == 1 else None


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


@dataclass(frozen=True)
class Wanted:
    """What a user wants of the tree.

    Attributes:
        hetero_root: the folder of 16- and 32-beam clouds and depth images; by default the one beside OPV2V.
        exclude: scenarios that are left out.
        max_agents: how many agents of a frame to keep.
        present_cameras: missing images are not reported as long as an agent has one.
        depth: whether depth images are looked for.
    """

    hetero_root: Path | None = None
    exclude: tuple[str, ...] = ()
    max_agents: int | None = None
    present_cameras: bool = False
    depth: bool = True


def survey(root: Path, split: str, wanted: Wanted | None = None) -> Iterator[Visit]:
    """Every frame of a split, whatever is wrong with others."""
    wanted = wanted or Wanted()
    layout = Layout.find(root, split, wanted.hetero_root or additions_elsewhere(root))
    complaints: list[DataError] = []
    frames = layout.frames(wanted.exclude, complain=complaints.append)
    for error in complaints:
        yield Visit(f"{split}/{error.path.name}", faults=(("description" if error.path.suffix else "folder", error),))
    clouds = CloudFiles()
    for frame in frames:
        visit = _visit(layout, replace(frame, agents=frame.agents[: wanted.max_agents]), clouds)
        yield replace(visit, files=tuple(_missed(visit.files, wanted)), of=len(frames))


def _missed(files: Sequence[SensorFile], wanted: Wanted) -> Iterator[SensorFile]:
    """The files without those that are not asked for."""
    with_image = {file.agent for file in files if file.kind == _IMAGE and file.path and file.path.exists()}
    for file in files:
        there = file.path is not None and file.path.exists()
        left_out = wanted.present_cameras and file.kind == _IMAGE and file.agent in with_image and not there
        if not left_out and (wanted.depth or file.kind != _DEPTH_IMAGE):
            yield file


def _visit(layout: Layout, frame: FrameFiles, clouds: CloudFiles) -> Visit:
    sources = {agent.agent_id: layout.opv2v / agent.yaml for agent in frame.agents}
    try:
        record = read_record(layout, frame)
    except DataError as error:
        files = tuple(file for agent in frame.agents for file in _files(layout, frame, agent, (), clouds))
        faults = [fault for agent in frame.agents for fault in _faults(layout, agent)]
        return Visit(frame.name, None, files, tuple(faults) or (("description", error),), sources)
    files = tuple(
        file
        for agent, cameras in zip(frame.agents, record.cameras, strict=True)
        for file in _files(layout, frame, agent, cameras, clouds)
    )
    return Visit(frame.name, _as_frame(frame, record), files, (), sources, sightings=_sightings(layout, frame))


def _sightings(layout: Layout, frame: FrameFiles) -> dict[int, tuple[Int64, Float64]]:
    """Where each agent's own description places the objects; with one agent there is nothing to compare."""
    if len(frame.agents) < 2:
        return {}
    records = {agent.agent_id: read_agent_yaml(layout.opv2v / agent.yaml) for agent in frame.agents}
    return {agent_id: (record.ids, record.T_world_object[:, :3, 3]) for agent_id, record in records.items()}


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
    layout: Layout, frame: FrameFiles, agent: AgentFiles, cameras: Collection[CameraRecord], clouds: CloudFiles
) -> Iterator[SensorFile]:
    def at(filename: str, hetero: bool = False) -> Path:
        return layout.sensor_file(frame.scenario, agent.folder, f"{frame.timestamp}{filename}", hetero=hetero)

    def file(kind: str, download: str, read: _Read, path: Path, sensor: str = "lidar") -> SensorFile:
        return SensorFile(kind, agent.agent_id, download, False, functools.partial(read, path), path, sensor)

    described = {camera.name: camera for camera in cameras}
    sweep = functools.partial(_sweep, clouds)
    yield file("64-beam cloud", "OPV2V", sweep, at(".pcd"))
    yield file("32-beam cloud", "OPV2V-H-LiDAR", sweep, at("_32.pcd", hetero=True))
    yield file("16-beam cloud", "OPV2V-H-LiDAR", sweep, at("_16.pcd", hetero=True))
    for number in range(_CAMERAS - (frame.scenario in WITHOUT_FOURTH_CAMERA)):
        camera = described.get(f"camera{number}")
        read, depth = functools.partial(_rgb, camera), functools.partial(_depth, camera)
        yield file(_IMAGE, "OPV2V", read, at(f"_camera{number}.png"), "camera")
        yield file(_DEPTH_IMAGE, "OPV2V-H-depth", depth, at(f"_depth{number}.png", hetero=True), "camera")
    stem = agent.yaml.removesuffix(".yaml")
    raster = layout.opv2v / (agent.visibility or f"additional/{stem}_bev_visibility.png")
    yield file("visibility raster", "OPV2V additional", _raster, raster, "label")
    yield file("hit counts", "synthetic world", _hits, layout.opv2v / (agent.hits or f"{stem}_hits.json"), "label")


def _sweep(clouds: CloudFiles, path: Path) -> PointCloud:
    cloud = clouds.read(path)
    cloud.points[:, 1] *= -1
    return cloud


def _rgb(camera: CameraRecord | None, path: Path) -> Camera | None:
    image = read_rgb(path, K=None if camera is None else camera.K, simulated=True)
    return None if camera is None else Camera(camera.name, image, camera.K, camera.T_agent_camera)


def _depth(camera: CameraRecord | None, path: Path) -> None:
    read_depth(path, K=None if camera is None else camera.K)


def _raster(path: Path) -> None:
    read_visibility(path)


def _hits(path: Path) -> None:
    parse_hits(read_bytes(path, MAX_BYTES), path)
