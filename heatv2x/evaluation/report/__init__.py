"""The report of a run: one HTML page that opens offline, made of metrics.json and scenes.json."""

from heatv2x.evaluation.report.build import build_report
from heatv2x.evaluation.report.results import CurvePoint, FrozenProof, Results, Row, StageResult
from heatv2x.evaluation.report.scene import AgentView, CameraView, DetectionSet, GridExtent, Scenes, SceneView

__all__ = [
    "AgentView",
    "CameraView",
    "CurvePoint",
    "DetectionSet",
    "FrozenProof",
    "GridExtent",
    "Results",
    "Row",
    "SceneView",
    "Scenes",
    "StageResult",
    "build_report",
]
