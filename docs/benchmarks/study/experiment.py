"""What is run: for each arm a search for its rate on seeds of its own, then the seeds that count."""

import statistics
import sys
import time
from collections.abc import Sequence

from arms import Arm
from rates import search
from records import Records
from revision import revision
from runs import Outcome, Run, Setting, versions
from training import measure
from workloads import WORKLOADS, Workload

__all__ = ["TUNING_SEED", "Experiment"]

TUNING_SEED = 1000  # the first of the seeds that choose a rate: none of those that count


class Experiment:
    """All arms under one setting.

    Parameters
    ----------
    records : Records
        Where results go; what is there is not run again.
    workload : str
        One of `WORKLOADS`.
    hidden, steps : int, optional
        None: the workload's own.
    ranks, batch : int
        How many ranks; how many examples in a step among them all.
    optimizer, schedule : str
        Of each rank.
    """

    def __init__(
        self, records: Records, workload: str, *, ranks: int, batch: int, optimizer: str, schedule: str,
        hidden: int | None = None, steps: int | None = None,
    ) -> None:  # fmt: skip
        self._records = records
        self._code = revision()
        self._workload: Workload = WORKLOADS[workload](hidden)
        self.setting = Setting(
            workload=workload,
            hidden=self._workload.hidden,
            parameters=sum(p.numel() for p in self._workload.build(0).parameters()),
            data=self._workload.digest,
            ranks=ranks,
            batch=batch,
            steps=steps or self._workload.default_steps,
            optimizer=optimizer,
            schedule=schedule,
            libraries=versions(),
        )

    def run(self, arm: Arm, rates: Sequence[float] | int, tuning_seeds: int, seeds: int) -> None:
        """Choose a rate, among these or among so many of the grid, and train with each seed."""
        tuned = range(TUNING_SEED, TUNING_SEED + tuning_seeds)

        def loss_at(rate: float) -> float:
            return statistics.mean(self._once(arm, rate, seed).loss for seed in tuned)

        if isinstance(rates, int):
            rate = search(loss_at, self._workload.middle_rates[self.setting.optimizer], rates)
        else:
            rate = rates[0] if len(rates) == 1 else min(rates, key=loss_at)
        for seed in range(seeds):
            self._once(arm, rate, seed)

    def _once(self, arm: Arm, rate: float, seed: int) -> Outcome:
        run = Run(self.setting, arm.name, arm.definition, rate, seed)
        known = self._records.find(run)
        if known is not None:
            return known
        began = time.monotonic()
        outcome = measure(run, arm, self._workload)._replace(code=self._code)
        seconds = time.monotonic() - began
        self._records.add(run, outcome, seconds)
        self._tell(run, outcome, seconds)
        return outcome

    def _tell(self, run: Run, outcome: Outcome, seconds: float) -> None:
        what = "diverged"
        if outcome.points:
            _, loss, sent, wire = outcome.points[-1]
            what = f"{loss:.4f}, sent 1/{self.setting.dense_bytes / sent:,.1f}, {wire:,.0f} bytes on the wire"
        print(f"{run.arm}, rate {run.rate:g}, seed {run.seed}: {what}, {seconds:.0f} s", file=sys.stderr, flush=True)
