"""Packs of an earlier version, brought up to date: their tensors stay, the name of their base changes.

Once the name of a base (its feature space) covered its tensors, grid and channels alone, so that two bases
without parameters of their own, such as those of two fusions, could share one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from heatv2x import __version__
from heatv2x.errors import PackError
from heatv2x.model.assembly import bare_base, load_base
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.packs import read_pack, write_pack


def rewrite(paths: Sequence[Path]) -> list[Path]:
    """Give a base and the packs that belong to it the base's current name; returns the files that changed.

    Packs of other bases, and those that are up to date, stay as they are. What was changed is noted in the provenance.

    Raises:
        PackError: there is not exactly one base, a pack is damaged, or the base's name is neither today's nor the
            former one.
    """
    packs = {path: read_pack(path) for path in paths}
    bases = {path: pack for path, pack in packs.items() if pack.kind == "base"}
    if len(bases) != 1:
        raise PackError(
            f"expected exactly one base pack, got {len(bases)}: give the base with all packs that belong to it"
        )
    (where, base), *_ = bases.items()
    model = bare_base(Collaboration, base)
    load_base(model, base)
    today, former = model.feature_space.hex(), model.former_feature_space.hex()
    if base.feature_space not in (today, former):
        raise PackError(
            f"{where}: its tensors do not match feature space {base.feature_space}, so the pack was changed"
        )
    changed = [path for path, pack in packs.items() if pack.feature_space == former != today]
    for path in changed:
        note = {"feature_space": former, "code_version": __version__}
        provenance = {**packs[path].provenance, "rewritten_from": note}
        write_pack(replace(packs[path], feature_space=today, provenance=provenance), path)
    return changed
