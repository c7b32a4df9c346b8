"""AP against training seconds from cells whose numbers are known."""

from __future__ import annotations

from studies.tests.adaptation_contents import make_contents, summary_of


def test_curves_have_every_budget_with_all_its_seconds() -> None:
    summary = summary_of(make_contents((0,)))
    curves = {(c["newcomer"], c["method"]): c["points"] for c in summary["curves"]}
    full = curves["lidar16", "full_finetune"]
    assert [(p["steps"], p["seconds"]) for p in full] == [(75, 35), (150, 70), (300, 140), (900, 420)]
    assert [p["seconds"] for p in curves["lidar16", "lhft"]] == [15, 30, 60]
    assert [p["seconds"] for p in curves["lidar16", "lhft_gcft"]] == [35, 70, 140]
    assert [p["seconds"] for p in curves["lidar16", "gcft_only"]] == [40]
    assert len(curves["lidar16", "backward_alignment"]) == 3
    assert ("all", "lhft_gcft") not in curves
    assert [p["ap50"] for p in summary["validation_curves"][1]["points"]] == [0.6, 0.7, 0.74, 0.75, 0.755, 0.755]


def test_time_to_equal_ap_is_the_cheapest_budget_within_a_point() -> None:
    times = {(t["newcomer"], t["method"]): t for t in summary_of(make_contents())["time_to_equal_ap"]}
    assert times["lidar16", "full_finetune"]["seconds"]["values"] == [420, 420, 420]
    assert times["lidar16", "lhft"]["seconds"]["values"] == [60, 60, 60]
    assert times["lidar16", "gcft_only"]["seconds"] == {"mean": None, "spread": None, "values": [None] * 3}
    assert times["lidar16", "gcft_only"]["reached"] == 0
