"""What it costs a step to record its phases: CPU time of ten empty phases, as a coded step has, with and without."""

import statistics
import time

from hvdspark.stats import SpanRecorder
from hvdspark.sync.phases import Phases

PHASES = ["load", "forward_backward", "update", "exchange", "update", "update", "exchange", "encode", "decode", "apply"]
STEPS, REPEATS = 5_000, 9


def cpu_s(*, recording: bool) -> float:
    phases, recorder = Phases(), SpanRecorder()
    if recording:
        phases.watch(recorder.record)
    steps = range(STEPS)
    begin = time.process_time()
    for _ in recorder.stepping(steps) if recording else steps:
        for name in PHASES:
            with phases.timed(name):
                pass
    return (time.process_time() - begin) / STEPS


def main() -> None:
    pairs = [(cpu_s(recording=False), cpu_s(recording=True)) for _ in range(REPEATS)]
    off, on = (statistics.median(each) for each in zip(*pairs, strict=True))
    print(f"off {off * 1e6:.1f} us a step, on {on * 1e6:.1f} us, added {(on - off) * 1e6:.1f} us")


if __name__ == "__main__":
    main()
