"""`train` and `adapt`: a base, a newcomer's encoder, and the ways in which a newcomer joins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from heatv2x.cli.verbs import Settings, Verb

if TYPE_CHECKING:
    from heatv2x.training.job_config import (
        BackwardConfig,
        BaseConfig,
        CollaborativeConfig,
        EncoderConfig,
        FullConfig,
        LocalConfig,
        TrainReaderConfig,
    )

app = typer.Typer(help="Train a base, its reader, or a newcomer's encoder.", no_args_is_help=True)
adapt = typer.Typer(help="Let a new agent type join a frozen base.", no_args_is_help=True)
_JOBS = "heatv2x.training.job_config:"
_BASE: Verb[BaseConfig] = Verb("train base", f"{_JOBS}BaseConfig")
_ENCODER: Verb[EncoderConfig] = Verb("train encoder", f"{_JOBS}EncoderConfig")
_READER: Verb[TrainReaderConfig] = Verb("train reader", f"{_JOBS}TrainReaderConfig")
_LOCAL: Verb[LocalConfig] = Verb("adapt local", f"{_JOBS}LocalConfig")
_COLLABORATIVE: Verb[CollaborativeConfig] = Verb("adapt collaborative", f"{_JOBS}CollaborativeConfig")
_BACKWARD: Verb[BackwardConfig] = Verb("adapt backward", f"{_JOBS}BackwardConfig")
_FULL: Verb[FullConfig] = Verb("adapt full", f"{_JOBS}FullConfig")


@app.command("base")
def train_base(settings: Settings = None) -> None:
    """Train a base with its own agents, collaboratively.

    For example: data=FOLDER out=runs/base steps=700
    """
    from heatv2x.training import jobs

    _BASE.run(jobs.train_base, settings)


@app.command("encoder")
def train_encoder(settings: Settings = None) -> None:
    """Pretrain a newcomer's encoder, alone.

    For example: data=FOLDER name=lidar16 agent.part=lidar_slices out=runs/lidar16
    """
    from heatv2x.training import jobs

    _ENCODER.run(jobs.train_encoder, settings)


@app.command("reader")
def train_reader(settings: Settings = None) -> None:
    """Train a base's reader: boxes on messages correct the features.

    For example: data=FOLDER base=runs/base/base.safetensors agents=[runs/base/lidar64.safetensors] out=runs/reader
    """
    from heatv2x.training import jobs

    _READER.run(jobs.train_reader, settings)


@adapt.command("local")
def adapt_local(settings: Settings = None) -> None:
    """LHFT: train a newcomer's adapters on its own data.

    Local Heterogeneous Fine-Tuning against the frozen base. For example: data=FOLDER base=shipped:base
    agents=[shipped:lidar64,shipped:lidar16] newcomer=lidar16 out=runs/local
    """
    from heatv2x.training import jobs

    _LOCAL.run(jobs.adapt_local, settings)


@adapt.command("collaborative")
def adapt_collaborative(settings: Settings = None) -> None:
    """GCFT: train the newcomer's part in mixed scenes.

    Global Collaborative Fine-Tuning: the settings of `adapt local`, and adapter=PACK, which `adapt local` wrote.
    """
    from heatv2x.training import jobs

    _COLLABORATIVE.run(jobs.adapt_collaborative, settings)


@adapt.command("backward")
def adapt_backward(settings: Settings = None) -> None:
    """Backward alignment as in HEAL, an alternative to LHFT.

    Trains the newcomer's whole encoder against the frozen base. The settings are those of `adapt local`.
    """
    from heatv2x.training import jobs

    _BACKWARD.run(jobs.align_backward, settings)


@adapt.command("full")
def adapt_full(settings: Settings = None) -> None:
    """Fine-tune base and newcomer in full, the yardstick.

    The settings are those of `adapt local`.
    """
    from heatv2x.training import jobs

    _FULL.run(jobs.full_finetune, settings)
