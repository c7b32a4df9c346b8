"""The settings of whole jobs; each field is a `key=value` of the command of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic

from heatv2x.core.plugins import PartConfig
from heatv2x.data.datasets.base import DatasetConfig
from heatv2x.model.codebook import CodebookConfig
from heatv2x.model.config import ModelConfig, check_type_name
from heatv2x.model.pretrained import PackPath
from heatv2x.model.reader import ReaderConfig
from heatv2x.nn.move import Device
from heatv2x.training.loop import LoopConfig
from heatv2x.training.scenes import SceneConfig
from heatv2x.training.windows import WindowConfig

Share = Annotated[float, pydantic.Field(gt=0, le=1)]


class JobConfig(LoopConfig):
    """What every job needs besides the loop's settings.

    Attributes:
        data: the dataset's folder.
        dataset: the dataset part that reads it, if the folder is not recognised; dataset.settings.KEY=VALUE are the
            part's own settings.
        hetero_root: the folder of OPV2V-H's second download, if it is not inside `data`.
        frames: train on this many labelled frames only, spread evenly over the split; None takes all of them.
        hold_data: keep the frames' sensor data in memory; false reads a frame from disk each time it is drawn, with
            the same result.
        out: the run folder: settings, log, record, checkpoint and packs are written here.
        overwrite: replace the results of another run in that folder, its checkpoint included.
        device: "auto" uses CUDA if there is a GPU.
        batch_size: scenes (or agents) per step, over all processes.
        scenes: how training scenes are drawn.
        validate_frames: how many frames of the validation split are evaluated during training; 0 evaluates none. An
            encoder, or a newcomer in local or backward training, is evaluated alone; else the base hears the others.
        validate_every: steps between those evaluations; the last step is evaluated, too.
        keep: what the packs hold: the weights of the "last" step, or the "best" ones by AP50 on the validation frames.
    """

    data: Path
    dataset: str | DatasetConfig | None = None
    hetero_root: Path | None = None
    frames: int | None = pydantic.Field(None, gt=0)
    hold_data: bool = True
    out: Path
    overwrite: bool = False
    device: Device = "auto"
    batch_size: int = pydantic.Field(4, gt=0)
    scenes: SceneConfig = SceneConfig()
    validate_frames: int = pydantic.Field(0, ge=0)
    validate_every: int = pydantic.Field(50, gt=0)
    keep: Literal["last", "best"] = "last"

    @pydantic.model_validator(mode="after")
    def _best_needs_validation(self) -> Self:
        if self.keep == "best" and not self.validate_frames:
            raise ValueError("keep=best needs validation: set validate_frames=50, for example, or keep=last")
        return self


class BaseConfig(JobConfig):
    """Training a base with its own agents, collaboratively.

    Attributes:
        model: the sizes and parts of the network.
    """

    out: Path = Path("runs/base")
    steps: int = pydantic.Field(700, gt=0)
    model: ModelConfig = ModelConfig()


class EncoderConfig(JobConfig):
    """Pretraining a newcomer's encoder in its own single-agent network, without any base.

    Attributes:
        name: the name of the new type.
        agent: its kind: the part that encodes its sensor data.
        model: the sizes of the network; cell size and channels must match the base that the type will join, whose
            grid may reach further.
    """

    out: Path = Path("runs/encoder")
    steps: int = pydantic.Field(500, gt=0)
    batch_size: int = pydantic.Field(6, gt=0)
    scenes: SceneConfig = SceneConfig(senders=0, alone=1.0)
    name: str
    agent: PartConfig
    model: ModelConfig = ModelConfig()

    @pydantic.field_validator("name")
    @classmethod
    def _possible(cls, name: str) -> str:
        check_type_name(name)
        return name


class TrainReaderConfig(JobConfig):
    """Training the reader of a base: how the boxes that ride on messages correct what the fused features show.

    Attributes:
        base: the base pack; it stays what it is, and its agents and adapters remain valid.
        agents: agent packs: the base types' encoders.
        allow_parts: parts from outside HeatV2X ("package.module:Class") that packs may name; their code is imported.
        reader: its settings.
        codebook: of the codes that features travel in from then on; it is fitted first. Null leaves the codec as it is.
        budget_bytes: how long messages may be from then on; the most relevant cells go first. Null sends all.
        window: how much of the map one training step sees.
        shares: shares of their cells that senders send; each step draws one.
        unreported: share of the senders that report an exact pose, whatever it is.
    """

    out: Path = Path("runs/reader")
    steps: int = pydantic.Field(800, gt=0)
    scenes: SceneConfig = SceneConfig(alone=0.0)
    base: PackPath
    agents: tuple[PackPath, ...]
    allow_parts: tuple[str, ...] = ()
    reader: ReaderConfig = ReaderConfig()
    codebook: CodebookConfig | None = CodebookConfig()
    budget_bytes: int | None = pydantic.Field(4000, ge=1000)
    window: WindowConfig = WindowConfig()
    shares: tuple[Share, ...] = pydantic.Field((1.0, 0.4, 0.2, 0.1), min_length=1)
    unreported: float = pydantic.Field(0.2, ge=0, le=1)


class AdaptConfig(JobConfig):
    """Letting a newcomer join a base.

    Attributes:
        base: the base pack.
        agents: agent packs: the base types' encoders, and the newcomer's.
        allow_parts: parts from outside HeatV2X ("package.module:Class") that packs may name; their code is imported.
        newcomer: the type that joins.
        like: the deployed type whose typed fusion parameters the newcomer starts from.
        before, after: the newcomer's adapters before and after the shared backbone; null leaves one out.
        received: the adapter that egos apply to what they receive from the newcomer, for example
            received.part=multi_cognitive; null has none: in no measurement it has made a difference.
        adapter: the adapter pack to start from: the result of `adapt local`, for `adapt collaborative`.
        window: how much of the map one training step sees.
        teacher: which data the base's encoder sees to teach the newcomer: its "own" sweep, that of a "companion" with
            the base type's sensor on the same vehicle, or "none"; "auto" is own for a newcomer with one LiDAR, else
            companion.
        distill: loss weight of the distance from the teacher's features.
    """

    base: PackPath
    agents: tuple[PackPath, ...]
    allow_parts: tuple[str, ...] = ()
    newcomer: str
    like: str = "lidar64"
    before: PartConfig | None = PartConfig(part="hetero_aware")
    after: PartConfig | None = PartConfig(part="hetero_aware", settings={"kernel": 1})
    received: PartConfig | None = None
    adapter: PackPath | None = None
    window: WindowConfig = WindowConfig()
    teacher: Literal["auto", "own", "companion", "none"] = "auto"
    distill: float = pydantic.Field(2.0, ge=0)


class LocalConfig(AdaptConfig):
    """Local Heterogeneous Fine-Tuning.

    Attributes:
        closed_form: start from the least-squares solution instead of the identity, if there is a teacher.
        steps: 0 leaves the adapters at their closed form.
        keep_cache: save the encoder outputs as cache.safetensors, for `collaborative` to use.
    """

    out: Path = Path("runs/local")
    steps: int = pydantic.Field(100, ge=0)
    batch_size: int = pydantic.Field(6, gt=0)
    lr: float = pydantic.Field(4e-3, gt=0)
    closed_form: bool = True
    keep_cache: bool = False


class CollaborativeConfig(AdaptConfig):
    """Global Collaborative Fine-Tuning.

    Attributes:
        deployed_share: probability that an agent of a training scene has the deployed type, not the newcomer's.
        cache: the cache that `local` saved for the same frames, so that the newcomer's encoder need not run again.
    """

    out: Path = Path("runs/collaborative")
    steps: int = pydantic.Field(50, gt=0)
    lr: float = pydantic.Field(5e-4, gt=0)
    deployed_share: float = pydantic.Field(0.5, ge=0, lt=1)
    cache: Path | None = None


class BackwardConfig(AdaptConfig):
    """Backward alignment after HEAL: the newcomer's whole encoder against the frozen base, a rival of LHFT.

    Attributes:
        teacher: as in LHFT; HEAL does without.
    """

    out: Path = Path("runs/backward_alignment")
    teacher: Literal["auto", "own", "companion", "none"] = "none"
    steps: int = pydantic.Field(300, gt=0)
    batch_size: int = pydantic.Field(6, gt=0)
    lr: float = pydantic.Field(2e-3, gt=0)
    before: PartConfig | None = None
    after: PartConfig | None = None


class FullConfig(AdaptConfig):
    """Full fine-tuning of base and newcomer together: the yardstick.

    Attributes:
        together: further newcomers that join in the same training; their encoders are among `agents`.
        deployed_share: as in collaborative fine-tuning.
        teacher: as in LHFT, for a single newcomer; none by default.
    """

    out: Path = Path("runs/full_finetune")
    teacher: Literal["auto", "own", "companion", "none"] = "none"
    steps: int = pydantic.Field(300, gt=0)
    lr: float = pydantic.Field(1e-3, gt=0)
    together: tuple[str, ...] = ()
    deployed_share: float = pydantic.Field(0.5, ge=0, lt=1)
    before: PartConfig | None = None
    after: PartConfig | None = None
