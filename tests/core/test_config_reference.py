"""What `heatv2x settings` says: every verb, every key down to the last, each with its default and meaning."""

from __future__ import annotations

import pytest

import heatv2x.cli.main  # noqa: F401 - its import makes the verbs known
from heatv2x.cli.verbs import VERBS
from heatv2x.core import plugins
from heatv2x.core.config_reference import settings_of
from heatv2x.training.job_config import BaseConfig, EncoderConfig, LocalConfig


def test_every_verb_with_settings_is_known() -> None:
    """Found from the verbs themselves: these are only some of them."""
    assert {"train base", "adapt full", "eval", "data view", "export onnx", "bench speed", "report"} <= set(VERBS)
    assert not {"doctor", "pack inspect", "list", "settings"} & set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_every_verb_is_explained(verb: str) -> None:
    rows = settings_of(VERBS[verb].config_class)
    assert rows and len({key for key, _, _ in rows}) == len(rows)
    assert not [key for key, _, meaning in rows if not meaning or "None" in meaning]


@pytest.mark.parametrize("kind", plugins.CONTRACTS)
def test_every_setting_of_every_part_is_explained(kind: str) -> None:
    for name in plugins.available(kind):
        part = plugins.find(kind, name)
        rows = settings_of(part.Config) if hasattr(part, "Config") else []
        assert not [f"{name}.{key}" for key, _, meaning in rows if not meaning]


def test_nested_keys_have_the_defaults_of_the_verb() -> None:
    rows = {key: (default, meaning) for key, default, meaning in settings_of(EncoderConfig)}
    assert rows["scenes.senders"][0] == "0" and rows["scenes.alone"][0] == "1.0", "its own, not those of the class"
    assert rows["model.agents.NAME.part"][1] and rows["agent.part"] == ("", "the part's name (heatv2x list agents)")
    assert rows["dataset.part"][0] == "null" and rows["data"][0] == "" and rows["frames"][0] == "null"
    local = {key: default for key, default, _ in settings_of(LocalConfig)}
    assert local["after.part"] == "hetero_aware" and local["after.settings.KEY"] == "kernel: 1"
    assert [key for key in local if key.startswith("window.")] == ["window.cells", "window.margin"]


def test_choices_are_listed() -> None:
    rows = {key: meaning for key, _, meaning in settings_of(BaseConfig)}
    assert rows["device"].endswith("(one of auto, cpu, cuda)")
