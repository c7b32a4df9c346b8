"""The studies as verbs: `python -m studies adaptation`, or `heatv2x bench adaptation` in a checkout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from heatv2x.cli.console import bars, command, out, print_rows, say
from heatv2x.cli.verbs import Settings, Verb

if TYPE_CHECKING:
    from studies.axes import AxesConfig
    from studies.bandwidth import BandwidthConfig
    from studies.config import AdaptationConfig
    from studies.convergence import ConvergenceConfig
    from studies.data import DataBenchConfig
    from studies.parameters import ParametersConfig
    from studies.robustness import RobustnessConfig
    from studies.scaling import ScalingConfig
    from studies.speed import SpeedConfig

app = typer.Typer(help="Run the studies whose results are in docs/benchmarks.", no_args_is_help=True)
_ADAPTATION: Verb[AdaptationConfig] = Verb("bench adaptation", "studies.config:AdaptationConfig")
_PARAMETERS: Verb[ParametersConfig] = Verb("bench parameters", "studies.parameters:ParametersConfig")
_SCALING: Verb[ScalingConfig] = Verb("bench scaling", "studies.scaling:ScalingConfig")
_BANDWIDTH: Verb[BandwidthConfig] = Verb("bench bandwidth", "studies.bandwidth:BandwidthConfig")
_AXES: Verb[AxesConfig] = Verb("bench axes", "studies.axes:AxesConfig")
_CONVERGENCE: Verb[ConvergenceConfig] = Verb("bench convergence", "studies.convergence:ConvergenceConfig")
_DATA: Verb[DataBenchConfig] = Verb("bench data", "studies.data:DataBenchConfig")
_SPEED: Verb[SpeedConfig] = Verb("bench speed", "studies.speed:SpeedConfig")
_ROBUSTNESS: Verb[RobustnessConfig] = Verb("robustness", "studies.robustness:RobustnessConfig")
Quick = Annotated[
    bool, typer.Option("--quick", help="Use one seed and very little of everything: a check, not a result.")
]


@app.command("adaptation")
def adaptation_study(
    settings: Settings = None,
    quick: Quick = False,
    finished: Annotated[bool, typer.Option("--finished", help="Write the page from what is finished.")] = False,
) -> None:
    """Run the adaptation study: rivals, controls, seeds.

    Continues where it was interrupted, and writes docs/benchmarks/adaptation.md.
    """
    from studies import adaptation, config
    from studies.page import write_page
    from studies.summary import summarise

    study = _ADAPTATION.read(settings)
    study = config.quick(study) if quick else study
    made_by = command()
    if finished:
        contents = adaptation.finished_cells(study)
    else:
        with bars(finished_go=True) as report:
            contents = adaptation.run_adaptation(study, report)
    summary = summarise(contents, study, adaptation.world_of(study), made_by)
    write_page(summary, study.docs)
    print_rows([_over_seeds(row) for row in summary["rows"]])
    say(f"\nPage: {study.docs / 'adaptation.md'}\nNumbers: {study.docs / 'adaptation.json'}")


@app.command("parameters")
def parameter_counts(settings: Settings = None) -> None:
    """Count what a newcomer trains at published size.

    From the recipes, beside full fine-tuning.
    """
    from studies import parameters

    config = _PARAMETERS.read(settings)
    counts = parameters.count()
    table = Table("base", "newcomer", "full fine-tuning", "trained", "share", box=None)
    for each in counts:
        table.add_row(each.base, each.newcomer, f"{each.full:,}", f"{each.gcft:,}", f"{100 * each.share:.2f} %")
    out.print(table)
    say(f"Page: {parameters.write_page(counts, config.docs)}")


@app.command("scaling")
def scaling_study(settings: Settings = None, quick: Quick = False) -> None:
    """Run the scaling study: many types, many agents.

    What grows when types join one after another and scenes hold many agents, and what does not.
    """
    from studies import scaling
    from studies.scaling_page import write_page
    from studies.scaling_summary import summarise

    study = _SCALING.read(settings)
    study = scaling.quick(study) if quick else study
    with bars(finished_go=True) as report:
        contents = scaling.run_scaling(study, report)
    summary = summarise(contents, study, command())
    page = write_page(summary, study.docs)
    for line in summary["targets"]:
        say(f"{line['what']}: {line['measured']} (target: {line['target']})")
    say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command("bandwidth")
def bandwidth_study(settings: Settings = None, quick: Quick = False) -> None:
    """Run the bandwidth study: what a message is worth.

    AP against measured bytes for every kind of ego and sender, beside late fusion, merged boxes and points.
    """
    from studies import bandwidth
    from studies.bandwidth_page import summarise, write_page

    study = _BANDWIDTH.read(settings)
    study = bandwidth.quick(study) if quick else study
    made_by = command()
    with bars(finished_go=True) as report:
        contents = bandwidth.run_bandwidth(study, report)
    page = write_page(summarise(contents, study, made_by), study)
    say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command("convergence")
def convergence_study(settings: Settings = None, quick: Quick = False) -> None:
    """Run the convergence study: rivals with all that they can use.

    Learning rates, a teacher and steps are searched for every method alike; the best of each is compared.
    """
    from studies import convergence
    from studies.convergence_page import summarise, write_page

    study = _CONVERGENCE.read(settings)
    study = convergence.quick(study) if quick else study
    made_by = command()
    with bars(finished_go=True) as report:
        contents = convergence.run_convergence(study, report)
    page = write_page(summarise(contents, made_by), study)
    say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command("axes")
def axes_study(settings: Settings = None, quick: Quick = False) -> None:
    """Run the axes study: what a sender's axes cost.

    AP by the heading of the sender relative to the ego's: as sent, from the nearest cell, in the ego's own axes, boxes.
    """
    from studies import axes
    from studies.axes_page import summarise, write_page

    study = _AXES.read(settings)
    study = axes.quick(study) if quick else study
    made_by = command()
    with bars(finished_go=True) as report:
        contents = axes.run_axes(study, report)
    page = write_page(summarise(contents, study, made_by), study)
    say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command("data")
def data_speed(settings: Settings = None) -> None:
    """Measure how fast frames are read: data=FOLDER.

    Beside plain PyYAML and general decoding libraries.
    """
    from studies.data import run_data_bench
    from studies.tables import print_speed

    config = _DATA.read(settings)
    with bars(finished_go=True) as report:
        content = run_data_bench(config, report)
    print_speed(content, out)
    say(f"Numbers: {config.out}")


@app.command("speed")
def speed_study(settings: Settings = None, quick: Quick = False) -> None:
    """Measure frames, training steps and evaluations.

    Beside the machine's own matrix products.
    """
    from studies import speed
    from studies.speed_page import write_page
    from studies.speed_summary import summarise
    from studies.tables import print_frames, print_targets

    config = _SPEED.read(settings)
    config = speed.quick(config) if quick else config
    with bars(finished_go=True) as report:
        contents = speed.run_speed(config, report)
    summary = summarise(contents, config, command(), quick)
    page = write_page(summary, config.docs)
    speed.forget(config)
    print_frames(summary, out)
    out.print()
    print_targets(summary["targets"], out)
    say(f"\nPage: {page}\nNumbers: {page.with_suffix('.json')}")


@app.command("robustness")
def robustness(settings: Settings = None, quick: Quick = False) -> None:
    """Run the robustness study: poses, latency, loss.

    What wrong poses and late or lost messages do to every method of the adaptation study.
    """
    from studies import config
    from studies import robustness as study

    wanted = _ROBUSTNESS.read(settings)
    networks = config.AdaptationConfig()
    if quick:
        wanted, networks = study.quick(wanted), config.quick(networks)
    with bars(finished_go=True) as report:
        summary = study.run_robustness(wanted, networks, command(), report)
    clean = [{**row, "ap": {k: sum(v) / len(v) for k, v in row["ap"].items()}} for row in summary["rows"]]
    print_rows(clean)
    say(f"\nPage: {wanted.docs / 'robustness.md'}\nNumbers: {wanted.docs / 'robustness.json'}")


def _over_seeds(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a study as the table of one run shows it: means."""
    seconds = row["train_seconds"]
    return {**row, "ap": {k: v["mean"] for k, v in row["ap"].items()}, "train_seconds": seconds and seconds["mean"]}
