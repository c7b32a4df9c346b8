"""The story stays true whichever way the numbers fall."""

from __future__ import annotations

import pytest

from heatv2x.evaluation.report import FrozenProof, Results, Row
from heatv2x.evaluation.report.story import tell


def with_ap50(results: Results, **values: float | None) -> Results:
    for name, value in values.items():
        row = results.row(name)
        assert row is not None
        row.ap["0.5"] = value
        row.ap_interval = None if value is None else {"0.5": [value - 0.005, value + 0.005]}
    return results


def test_the_story_carries_the_numbers(results: Results) -> None:
    story = tell(results)
    assert story.headline == "A 16-beam LiDAR newcomer joins: AP50 rises from 60.0 to 85.1"
    assert "its messages hurt: AP50 42.7, against 60.0 alone" in story.lead
    assert "training 51\u202fk parameters (12\u202f% of full fine-tuning) for 70\u202fs" in story.lead
    assert "more than the ego sees alone" in story.lead
    assert "reached 86.3: 1.2 points more (the intervals overlap)" in story.context
    assert [milestone.role for milestone in story.milestones] == ["alone", "unaligned", "adapted", "reference"]


@pytest.mark.parametrize(
    ("late", "headline", "verdict"),
    [
        (0.848, "rises from 60.0 to 85.1, level with late fusion (84.8)", "no difference to speak of"),
        (0.874, "rises from 60.0 to 85.1, but late fusion reaches 87.4", "better"),
        (0.701, "rises from 60.0 to 85.1; late fusion reaches 70.1", "less"),
    ],
)
def test_late_fusion_stands_in_the_headline(results: Results, late: float, headline: str, verdict: str) -> None:
    told, ours = results.rows[0], results.rows[2]
    ours.ap["0.7"] = 0.5
    row = Row("late", {"0.5": late, "0.7": 0.62}, ego_type=told.ego_type, protocol=told.protocol, message_bytes=812.0)
    results.rows.append(row)
    story = tell(results)
    assert story.headline.endswith(headline)
    assert f"(AP70 62.0 against 50.0): {verdict}." in story.context
    assert "Its messages have 812\u202fB, those with features 36.9\u202fkB." in story.context
    assert "late" in [milestone.role for milestone in story.milestones]
    row.protocol = {"name": "other"}
    assert "late fusion" not in tell(results).headline + tell(results).context.lower()


def test_the_one_row_of_an_evaluation_is_the_headline() -> None:
    story = tell(Results([Row("lidar64<-lidar16+camera", {"0.5": 0.724})]))
    assert story.headline == "64-beam LiDAR hears 16-beam LiDAR, cameras: AP50 72.4"


def test_adapting_that_did_not_help_is_said_so(results: Results) -> None:
    story = tell(with_ap50(results, lhft_gcft=0.55))
    assert "falls from 60.0 to 55.0" in story.headline
    assert "less than the ego sees alone: it did not help" in story.lead
    assert "more" not in story.lead.split("AP50 is")[1]


def test_a_difference_within_noise_is_no_difference(results: Results) -> None:
    story = tell(with_ap50(results, lhft_gcft=0.604, unaligned=0.595, full_finetune=0.601))
    assert "did not help" in story.headline
    assert "made no difference to speak of" in story.lead
    assert "no better than the ego alone" in story.lead
    assert "no difference to speak of" in story.context


def test_messages_that_help_at_once_are_said_so(results: Results) -> None:
    assert "already helped" in tell(with_ap50(results, unaligned=0.7)).lead


def test_overlapping_intervals_are_mentioned(results: Results) -> None:
    told = with_ap50(results, lhft_gcft=0.62)
    for name in ("lhft_gcft", "no_fusion"):
        row = told.row(name)
        assert row is not None
        row.ap_interval = {"0.5": [0.55, 0.65]}
    assert "but the intervals overlap" in tell(told).lead


@pytest.mark.parametrize("missing", ["no_fusion", "unaligned", "lhft_gcft", "full_finetune"])
def test_any_row_may_be_missing(results: Results, missing: str) -> None:
    results.rows = [row for row in results.rows if row.name != missing]
    story = tell(results)
    assert story.headline
    assert len(story.milestones) == 3
    assert "None" not in story.lead + story.context


def test_an_unmeasured_row_is_not_told(results: Results) -> None:
    story = tell(with_ap50(results, lhft_gcft=None))
    assert "not adapted" in story.headline
    assert "After" not in story.lead


def test_nothing_measured_makes_no_claim() -> None:
    story = tell(Results(rows=[]))
    assert (story.lead, story.context, story.milestones) == ("", "", [])


def test_rows_of_another_protocol_or_ego_are_not_compared(results: Results) -> None:
    row = results.row("no_fusion")
    assert row is not None
    row.protocol = {"name": "other"}
    assert "60.0" not in tell(results).lead
    row.protocol = dict(results.rows[1].protocol)
    row.ego_type = "lidar16"
    assert "60.0" not in tell(results).lead


def test_a_shipped_pack_is_not_passed_off_as_trained_here(results: Results) -> None:
    row = results.row("lhft_gcft")
    assert row is not None
    row.train_seconds, row.provenance_seconds = None, 71.0
    assert "shipped ready-made; it once took 71\u202fs" in tell(results).lead


def test_a_tensor_that_did_not_stay_frozen_is_a_warning(results: Results) -> None:
    assert tell(results).warning == ""
    results.stages[1].frozen_proof = FrozenProof(12, False)
    story = tell(results)
    assert "Collaborative adapters (GCFT)" in story.warning
    assert "Nobody deployed was retrained" not in story.context


def test_further_newcomers_get_a_sentence(results: Results) -> None:
    protocol = results.rows[0].protocol
    results.rows.append(
        Row("camera/lhft_gcft", {"0.5": 0.633}, newcomer="camera", ego_type="lidar64", protocol=protocol)
    )
    assert "A camera-only newcomer: 63.3 after (60.0 alone)." in tell(results).context
