"""A collaboration whose networks run in onnxruntime: the same verbs, no weights in torch.

What stays outside of the files is this project's own code: preparing sensor data, packing messages, decoding maps to
boxes. Torch's modules stand on the meta device, where they have shapes and no values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from heatv2x.core import config as settings
from heatv2x.core import plugins
from heatv2x.core.config import build
from heatv2x.errors import ConfigError, DataError
from heatv2x.fusion.base import Edges, Fusion, Received
from heatv2x.geometry.handedness import agent_on
from heatv2x.interop.onnx.folder import read_manifest
from heatv2x.interop.onnx.graph_file import open_session, require_packages, run
from heatv2x.interop.onnx.senders import encoder_of
from heatv2x.model.collaboration import Collaboration, Links, nothing_received
from heatv2x.model.config import AdapterConfig, ModelConfig
from heatv2x.structures import AgentFrame


class OnnxCollaboration(Collaboration):
    """`encode`, `detect` and what builds on them, from a folder that `heatv2x export onnx` has written.

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
            super().__init__(build(ModelConfig, manifest["model"], about, complete=True))
            for name, joining in manifest["joined"].items():
                self.join(name, build(AdapterConfig, joining, about, complete=True))
        self._space = bytes.fromhex(manifest["feature_space"])
        self._sessions = {stage["name"]: _session(Path(folder), stage) for stage in manifest["stages"]}
        self._maps = [
            port["name"] for stage in manifest["stages"] if stage["name"] == "head" for port in stage["outputs"]
        ]
        self.fusion = SessionFusion(self._sessions["fusion"], manifest["types"])
        self.eval()

    def receive(
        self, features: Tensor, messages: Tensor, types: Sequence[str], links: Links
    ) -> tuple[Tensor, Received]:
        """The feature of one ego and the messages it hears, warped into its frame."""
        ego = features[links.ego]
        own = [types[int(i)] for i in links.ego]
        if links.senders.shape[1] == 0:
            return ego, nothing_received(ego, links, own)
        (senders,), (T_sender_ego,) = links.senders, links.T_sender_ego
        warped, visible = run(self._sessions["warp"], (messages[senders], T_sender_ego))
        names = [types[int(i)] for i in senders]
        for name in sorted(set(names) & set(self.receivers)):
            rows = torch.tensor([sender == name for sender in names])
            (warped[rows],) = run(self._sessions[f"received_{name}"], (warped[rows], visible[rows]))
        edges = Edges(torch.linalg.inv(links.T_sender_ego), links.sigma_m, links.sigma_rad, links.age_s)
        return ego, Received(warped[None], visible[None], edges, own, [names])

    def predict(self, fused: Tensor) -> dict[str, Tensor]:
        """Dense predictions from (B, C, Y, X) fused features."""
        return dict(zip(self._maps, run(self._sessions["head"], (fused,)), strict=True))

    def share(self, agent_type: str, encoded: Tensor) -> NoReturn:
        """Training and batches need torch's networks."""
        raise ConfigError("an exported collaboration encodes and detects; load the packs for everything else")

    @property
    def feature_space(self) -> bytes:
        """16 bytes that name the base."""
        return self._space

    @property
    def _device(self) -> torch.device:
        return torch.device("cpu")

    def _look(self, agent_type: str, frame: AgentFrame) -> Tensor:
        """(1, C, Y, X) shared feature of one agent."""
        agent = self.agent(agent_type)
        name = f"sender_{agent_type}"
        if name not in self._sessions:
            raise ConfigError(f"type '{agent_type}' was exported without its encoder: it can only be listened to")
        batch = agent.collate([agent.prepare(agent_on(self.grid, frame))])
        return run(self._sessions[name], encoder_of(agent, name).tensors(batch))[0]


class SessionFusion(Fusion):
    """Hands one ego's fusion to onnxruntime."""

    source = "an exported fusion"

    class Config(settings.Config):
        """Nothing to set."""

    def __init__(self, session: Any, types: dict[str, int]) -> None:
        super().__init__()
        self.session, self.types = session, types

    def forward(self, ego: Tensor, received: Received) -> Tensor:
        """(1, C', Y, X)."""
        if received.features.shape[1] == 0:
            return ego
        (names,), edges = received.sender_types, received.edges
        known = {
            "ego": ego,
            "features": received.features[0],
            "visible": received.visible[0],
            "T_ego_sender": edges.T_ego_sender[0].float(),
            "sigma_m": edges.sigma_m[0],
            "sigma_rad": edges.sigma_rad[0],
            "age_s": edges.age_s[0],
            "ego_type": torch.tensor([self.types[name] for name in received.ego_types]),
            "sender_types": torch.tensor([self.types[name] for name in names]),
        }
        (fused,) = run(self.session, [known[port.name] for port in self.session.get_inputs()])
        return fused


def _session(folder: Path, stage: dict[str, Any]) -> Any:
    path = folder / stage["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", way_out="export again") from error
    if hashlib.sha256(content).hexdigest() != stage["sha256"]:
        raise DataError(path, "is not the file that the manifest speaks of", way_out="export again")
    return open_session(content)
