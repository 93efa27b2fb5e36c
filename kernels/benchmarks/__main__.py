"""How fast the codec's kernels are, against ``r += g`` of the same run, and how small its formats.

Every round runs all contestants in alternating order on the same arrays. A ratio is the median over rounds of the
seconds of ``r += g`` by those of the contestant, with its 95 % interval. Only ratios can be compared between machines.

Usage: python kernels/benchmarks [encode] [decode] [formats] [--elements N] [--rounds K] [--threads T ...] [--no-rivals]
"""

import argparse
import sys

import decode
import encode
import formats
from pairs import Outcome

from hvdspark_kernels import threads

DENSITIES = (1e-2, 1e-3, 1e-4)
PARTS = ("encode", "decode", "formats")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _print_outcomes(num_threads: int, density: float, outcomes: dict[str, Outcome], amount: int, unit: str) -> None:
    for name, outcome in outcomes.items():
        rate = f"{amount / outcome.seconds / 1e6:>10,.0f} {unit}"
        ratio = f"{outcome.ratio:>6.3f}  [{outcome.low:.3f}, {outcome.high:.3f}]"
        _say(f"{num_threads:>7} {density:>8.0e}  {name:<30} {1e3 * outcome.seconds:>9.3f} {rate}  {ratio}")


def _run(options: argparse.Namespace, part: str) -> None:
    heading = (
        f"{'threads':>7} {'density':>8}  {'contestant':<30} {'ms':>9} {'rate':>14}  ratio to r += g, 95 % interval"
    )
    _say(f"\n{part}: {options.elements:,} elements, {options.rounds} rounds\n{heading}")
    for num_threads in sorted(set(options.threads)):
        for density in DENSITIES:
            arguments = (options.elements, options.rounds, num_threads, density)
            if part == "encode":
                outcomes = encode.measure(*arguments, rivals=options.rivals)
                _print_outcomes(num_threads, density, outcomes, options.elements, "M/s      ")
            else:
                outcomes, codes = decode.measure(*arguments, rivals=options.rivals)
                _print_outcomes(num_threads, density, outcomes, codes, "M codes/s")


def _run_formats(options: argparse.Namespace) -> None:
    _say(f"\nformats: one thread, {options.rounds} rounds; M codes/s")
    rates = " ".join(f"{name:>7}" for name in ("plan", "write", "read"))
    _say(f"{'density':>8} {'codes':>8}  {'format':<7} {'bits/code':>10} {'bound':>7} {'x bound':>8} {rates}")
    for density in (0.9, 0.3, *DENSITIES):
        for count in (5_000, 250_000):
            for row in formats.measure(count, density, options.rounds):
                rates = " ".join(f"{rate / 1e6:>7,.0f}" for rate in (row.plan_rate, row.write_rate, row.read_rate))
                _say(
                    f"{density:>8.0e} {row.codes:>8}  {row.name:<7} {row.bits:>10.3f} {row.bound:>7.3f} "
                    f"{row.bits / row.bound:>8.3f} {rates}"
                )


def main() -> None:
    """Measure and write tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {PARTS}; all of them unless told")
    parser.add_argument("--elements", type=int, default=25_000_000, help="length of the arrays")
    parser.add_argument("--rounds", type=int, default=40, help="measured rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, threads.default_num_threads()])
    parser.add_argument("--no-rivals", dest="rivals", action="store_false", help="leave out numpy and torch")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        if part == "formats":
            _run_formats(options)
        else:
            _run(options, part)


if __name__ == "__main__":
    main()
