"""What sharing costs in loss, and saves in bytes: each way to share on small real workloads, each with its own rate.

    python docs/benchmarks/study run --workload lm --ranks 4 --optimizer momentum --schedule cosine --arms rivals best
    python docs/benchmarks/study report --workload lm

Every training is appended to results/WORKLOAD.jsonl as it ends, and not made again: stop with Ctrl-C, go on with the
same command. Processes with --shard 0/2 and --shard 1/2 share the arms among them.
"""

import argparse
import fnmatch
import sys
from pathlib import Path

from arms import ARMS, OPTIMIZERS, SETS, Arm
from experiment import Experiment
from plots import draw
from rates import MIN_RATES
from records import Records
from report import tables
from workloads import WORKLOADS

RESULTS = Path(__file__).with_name("results")


def _chosen(patterns: list[str], optimizer: str) -> list[Arm]:
    """Return the arms of the sets and patterns that were named, each once, that go with this optimizer."""
    found: dict[str, Arm] = {}
    for pattern in patterns:
        arms = SETS.get(pattern) or [arm for name, arm in ARMS.items() if fnmatch.fnmatchcase(name, pattern)]
        if not arms:
            sys.exit(f"study: no arm is named {pattern!r}. Sets: {', '.join(SETS)}. Arms: {', '.join(ARMS)}")
        found |= {arm.name: arm for arm in arms if optimizer in arm.optimizers}
    return list(found.values())


def _shard(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"a part and the number of parts are needed, such as 0/2, not {text!r}")
    return int(number), int(count)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
    return int(text)


def _ranks(text: str) -> int:
    count = _count(text)
    if count < 2:
        raise argparse.ArgumentTypeError("2 ranks or more are needed: one alone shares nothing")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train what has not been trained")
    report = commands.add_parser("report", help="tables in Markdown, and plots")
    for command in (run, report):
        command.add_argument("--results", type=Path, default=RESULTS, help="folder of the raw numbers")
    run.add_argument("--workload", choices=WORKLOADS, required=True)
    run.add_argument("--hidden", type=_count, help="width of the network (default: the workload's)")
    run.add_argument("--steps", type=_count, help="(default: the workload's)")
    run.add_argument("--ranks", type=_ranks, default=4)
    run.add_argument("--batch", type=_count, default=256, help="examples a step, among all ranks")
    run.add_argument("--optimizer", choices=OPTIMIZERS, default="momentum")
    run.add_argument("--schedule", choices=["cosine", "constant"], default="cosine")
    run.add_argument("--arms", nargs="+", default=["*"], help="sets, names or patterns; sets: " + ", ".join(SETS))
    run.add_argument("--num-rates", type=_count, default=5, help=f"how many rates each arm tries, {MIN_RATES} or more")
    run.add_argument("--rates", nargs="+", type=float, help="these rates instead; a single one is not tuned")
    run.add_argument(
        "--tuning-seeds", type=_count, default=1, help="seeds that choose the rate, beside those that count"
    )
    run.add_argument("--seeds", type=int, default=2, help="seeds that count; 0: only choose the rate")
    run.add_argument("--shard", type=_shard, default=(0, 1), metavar="K/N", help="only every N-th arm, from K on")
    report.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    report.add_argument("--plots", type=Path, help="folder for a plot a table (SVG)")
    return parser


def _run(options: argparse.Namespace) -> None:
    if options.batch % options.ranks:
        sys.exit(f"study: {options.batch} examples a step cannot be shared equally among {options.ranks} ranks")
    experiment = Experiment(
        Records(options.results), options.workload, ranks=options.ranks, batch=options.batch,
        optimizer=options.optimizer, schedule=options.schedule, hidden=options.hidden, steps=options.steps,
    )  # fmt: skip
    print(f"{experiment.setting.title}; data {experiment.setting.data[:12]}", file=sys.stderr, flush=True)
    number, count = options.shard
    for arm in _chosen(options.arms, options.optimizer)[number::count]:
        experiment.run(arm, options.rates or max(options.num_rates, MIN_RATES), options.tuning_seeds, options.seeds)


def _report(options: argparse.Namespace) -> None:
    records = Records(options.results).all()
    for table in tables((run, outcome) for run, outcome in records if run.setting.workload in options.workload):
        print(table, end="\n\n")
        if options.plots:
            print(f"plot: {draw(table, options.plots)}", file=sys.stderr)


def main() -> None:
    """Do what the command line says."""
    options = _parser().parse_args()
    try:
        {"run": _run, "report": _report}[options.command](options)
    except KeyboardInterrupt:
        sys.exit("study: stopped; the same command goes on from here")


if __name__ == "__main__":
    main()
