"""A collaboration whose networks run in onnxruntime: the same verbs, no weights in torch.

What stays outside of the files is this project's own code: preparing sensor data, packing messages, decoding maps to
boxes. Torch's modules stand on the meta device, where they have shapes and no values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from heatv2x.agents.base import Agent
from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.errors import DataError, PackError
from heatv2x.geometry.handedness import agent_on
from heatv2x.interop.onnx.folder import read_manifest
from heatv2x.interop.onnx.graph_file import open_session, require_packages, run
from heatv2x.interop.onnx.senders import encoder_of
from heatv2x.model.codebook import Codebook
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.model.exchange import EXCHANGES
from heatv2x.model.links import Links
from heatv2x.model.networks import ENCODES
from heatv2x.model.vehicle import Vehicle
from heatv2x.structures import AgentFrame, Boxes3D


class OnnxCollaboration(Vehicle):
    """A vehicle whose networks are in a folder that `heatv2x export onnx` has written.

    Args:
        folder: the folder.

    Raises:
        DataError: a file is missing, or is not the one the manifest speaks of.
    """

    def __init__(self, folder: str | Path) -> None:
        require_packages()
        manifest = read_manifest(Path(folder))
        about = str(Path(folder) / "manifest.json")
        with plugins.from_a_pack(about), torch.device("meta"):
            self._shapes = Collaboration(build(ModelConfig, manifest["model"], about, complete=True))
            for name, joining in manifest["joined"].items():
                self._shapes.join(name, build(AdapterConfig, joining, about, complete=True))
        self.grid, self.exchange = self._shapes.grid, EXCHANGES["features"]
        self.codebook = _codebook(Path(folder), manifest, self._shapes.config)
        self._space = bytes.fromhex(manifest["feature_space"])
        self._types: dict[str, int] = manifest["types"]
        self._sessions = {stage["name"]: _session(Path(folder), stage) for stage in manifest["stages"]}
        self._files = ",".join(stage["sha256"] for stage in manifest["stages"])
        self._maps = [
            port["name"] for stage in manifest["stages"] if stage["name"] == "head" for port in stage["outputs"]
        ]

    @property
    def feature_space(self) -> bytes:
        return self._space

    @property
    def channels(self) -> int:
        return self._shapes.channels

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def codec(self) -> str:
        return self._shapes.codec

    @property
    def sends_boxes_above(self) -> float | None:
        return None  # the reader is not exported

    @property
    def budget_bytes(self) -> int | None:
        return None  # nor is what chooses cells

    def known_types(self) -> list[str]:
        return self._shapes.known_types()

    def encoded_types(self) -> list[str]:
        return [name for name in self._shapes.encoded_types() if f"sender_{name}" in self._sessions]

    def agent(self, name: str) -> Agent:
        return self._shapes.agent(name)

    def require(self, agent_types: Iterable[str], parts: Collection[str]) -> None:
        """Check that the encoders of some types were exported; everything else always is.

        Raises:
            PackError: one was not.
        """
        if "encoder" in parts and (absent := [name for name in agent_types if name not in self.encoded_types()]):
            raise PackError(f"exported without an encoder: {', '.join(absent)}; such types can only be listened to")

    def voice(self, agent_type: str) -> str:
        return f"onnx {agent_type} {self._files}"

    def look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        self.require([agent_type], ENCODES)
        agent, name = self.agent(agent_type), f"sender_{agent_type}"
        batch = agent.collate([agent.prepare(agent_on(self.grid, frame))])
        return run(self._sessions[name], encoder_of(agent, name).tensors(batch))[0]

    def select(self, feature: Tensor) -> Tensor | None:
        return None  # a fusion that selects is not exported

    def relevance(self, feature: Tensor) -> Tensor:
        return feature.abs().mean(dim=1)

    def detect_alone(self, feature: Tensor, agent_type: str) -> Boxes3D:
        return self._boxes(feature)  # a fusion that goes on computing alone is not exported

    def detect_fused(
        self, features: Tensor, types: Sequence[str], links: Links, boxes: Sequence[Boxes3D | None] = ()
    ) -> Boxes3D:
        ego, names = features[:1], list(types[1:])
        if not names:
            return self._boxes(ego)
        warped, visible = run(self._sessions["warp"], (features[1:], links.T_sender_ego[0]))
        if self.codebook is not None:  # cells that were not sent arrive as zeros
            visible &= (warped != 0).any(dim=1)
        for name in sorted(set(names) & set(self._shapes.receivers)):
            rows = torch.tensor([sender == name for sender in names])
            (warped[rows],) = run(self._sessions[f"received_{name}"], (warped[rows], visible[rows]))
        known = {
            "ego": ego,
            "features": warped,
            "visible": visible,
            "T_ego_sender": torch.linalg.inv(links.T_sender_ego[0]).float(),
            "sigma_m": links.sigma_m[0],
            "sigma_rad": links.sigma_rad[0],
            "age_s": links.age_s[0],
            "ego_type": torch.tensor([self._types[types[0]]]),
            "sender_types": torch.tensor([self._types[name] for name in names]),
        }
        session = self._sessions["fusion"]
        (fused,) = run(session, [known[port.name] for port in session.get_inputs()])
        return self._boxes(fused)

    def _boxes(self, fused: Tensor) -> Boxes3D:
        maps = dict(zip(self._maps, run(self._sessions["head"], (fused,)), strict=True))
        return self._shapes.boxes_of(maps)


def _codebook(folder: Path, manifest: dict[str, Any], config: ModelConfig) -> Codebook | None:
    """The base's codebook, if it has one.

    Raises:
        DataError: its file is missing, or is not the one the manifest describes.
    """
    stage = manifest.get("codebook")
    if stage is None or config.codebook is None:
        return None
    codebook = Codebook(config.codebook, config.channels)
    tables = safetensors.torch.load(_content(folder, stage)).get("tables")
    if tables is None or tables.shape != codebook.tables.shape:
        raise DataError(folder / stage["file"], "does not hold the codebook's tables", way_out="export again")
    codebook.tables.copy_(tables)
    return codebook


def _content(folder: Path, stage: dict[str, Any]) -> bytes:
    path = folder / stage["file"]
    try:
        content: bytes = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", way_out="export again") from error
    if hashlib.sha256(content).hexdigest() != stage["sha256"]:
        raise DataError(path, "is not the file that the manifest describes", way_out="export again")
    return content


def _session(folder: Path, stage: dict[str, Any]) -> Any:
    return open_session(_content(folder, stage))
