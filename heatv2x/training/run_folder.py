"""The run folder of a job: whose results it holds, and what decides them.

A run folder holds the resolved settings, the log, the record (cost, curve, proof), the checkpoint and the packs.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heatv2x.core import distributed
from heatv2x.core.files import read_json
from heatv2x.data.datasets.base import Dataset
from heatv2x.errors import ConfigError
from heatv2x.evaluation.job import named_dataset, open_part
from heatv2x.training.job_config import JobConfig


def open_split(config: JobConfig, split: str) -> Dataset:
    """One split of the job's dataset."""
    return open_part(config.dataset, config.data, split, config.hetero_root)


def finished(config: JobConfig) -> dict[str, Any] | None:
    """The record of this very job, on the same data and packs, if its run folder holds its result; None otherwise."""
    path = config.out / "record.json"
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    config = settled(config)
    return record if record.get("identity") == identity_of(config, open_split(config, "train")) else None


def refuse_to_overwrite(config: JobConfig, identity: dict[str, Any]) -> None:
    """Refuse a run folder that holds another job's results; with `overwrite`, delete those.

    Raises:
        ConfigError: it does; says what differs and the way out.
    """
    path = config.out / "record.json"
    if not path.exists():
        return
    record = read_json(path)
    before = record.get("identity") if isinstance(record, dict) else None
    before = before if isinstance(before, dict) else {}
    wanted = json.loads(json.dumps(identity))
    differs = sorted(key for key in {*before, *wanted} if before.get(key) != wanted.get(key))
    if not differs:
        return
    if not config.overwrite:
        raise ConfigError(
            f"the results in {config.out} were made with other settings ({', '.join(differs)}).\n"
            "  Way out: set another out=FOLDER, or overwrite=true to replace them"
        )
    distributed.all_reduce_count(0)  # all processes have looked before anything is deleted
    if distributed.rank() == 0:
        (config.out / "checkpoint.safetensors").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    distributed.all_reduce_count(0)


def settled(config: JobConfig) -> JobConfig:
    """The settings with the name of the part that reads the data filled in, so that the record names it."""
    return config.model_copy(update={"dataset": named_dataset(config.dataset, config.data)})


def identity_of(config: JobConfig, dataset: Dataset) -> dict[str, Any]:
    """What decides a job's result: settings, data and packs by content, wherever they lie."""
    files = {"base", "agents", "adapter"} & set(type(config).model_fields)
    paths = [path for name in sorted(files) for path in _paths(getattr(config, name))]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()]
    return {**portable(config), "data_fingerprint": dataset.fingerprint, "packs": digests}


def _paths(value: Path | tuple[Path, ...] | None) -> tuple[Path, ...]:
    return () if value is None else value if isinstance(value, tuple) else (value,)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write everything this package logs to a file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("heatv2x")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


def portable(config: JobConfig) -> dict[str, Any]:
    """The settings that decide the weights, for a pack's provenance: no file paths, nothing that only observes."""
    settings = config.decisive()
    places = {
        "data",
        "out",
        "overwrite",
        "hetero_root",
        "base",
        "agents",
        "adapter",
        "cache",
        "keep_cache",
        "hold_data",
        "allow_parts",
        "workers",
        "on_bad_file",
        "recompute",
    }
    watching = set() if config.keep == "best" else {"validate_frames", "validate_every", "keep"}
    return {k: v for k, v in settings.items() if k not in places | watching}
