#!/usr/bin/env python3
"""LoRA SFT speed and memory of `swift` against transformers + peft, and the time of `swift --help`.

    python benchmark.py --model HF_FOLDER --swift PATH/TO/swift [--plugin FILE.wasm] [--repeats 3]
    python benchmark.py --model HF_FOLDER --only-peer

Work: SmolLM2-135M, f32, LoRA of rank 8 on every linear layer but the head, 2 rows of 512 tokens a step, without and with
gradient checkpointing. The peer is `../shared/bench/hf_bench.py` (random tokens, all of them labelled); swift trains on rows of
chat text truncated on the right to 512 tokens, of which all but the first 50 or so are labelled. The two run alternately, each in a process
of its own, so that a busy machine hurts both; the table holds medians over the repeats.

tokens/s: peer, median over its steps after one warm-up step; swift, median of `train_speed(tokens/s)` of logging.jsonl without the
first step, checked against the times at which this script sees the rows of logging.jsonl appear.
peak RSS: what the operating system reports for the ended process (`ru_maxrss`), mapped weights included, the same for both.

Run it on a quiet machine: other work makes OpenMP barriers collapse. The load average is printed beside the result.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

BATCH, LENGTH, RANK, ALPHA = 2, 512, 8, 16
KINDS = {"lora": "LoRA SFT", "lora_gc": "LoRA SFT, checkpointing"}
ROOT = Path(__file__).resolve().parents[2]
HF_BENCH = ROOT.parent / "shared" / "bench" / "hf_bench.py"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="Hugging Face folder of SmolLM2-135M-Instruct")
    parser.add_argument("--swift", type=Path, help="the swift binary (a release build)")
    parser.add_argument("--plugin", action="append", default=[], help="passed to swift as `--plugin FILE` before the verb; may repeat")
    parser.add_argument("--rows", type=Path, help="chat rows to make long rows from (default: sft.jsonl beside the model folder)")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each program per line of the table")
    parser.add_argument("--steps", type=int, default=4, help="measured steps in each process, after one that is not")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "peers" / "benchmark")
    parser.add_argument("--only-peer", action="store_true")
    options = parser.parse_args()
    if not options.only_peer and options.swift is None:
        parser.error("give --swift PATH, or --only-peer")
    if options.swift is not None and not options.swift.exists():
        parser.error(f"no such file: {options.swift}")
    if not HF_BENCH.exists():
        parser.error(f"{HF_BENCH} is missing: the peer's side of the benchmark is kept in ../shared/bench beside the project")
    options.rows = options.rows or options.model.parent / "sft.jsonl"
    for path in (options.model / "config.json", options.rows):
        if not path.exists():
            parser.error(f"no such file: {path} (tests/peers/setup.sh makes the model folder and its rows)")
    return options


def run(command, log, environment):
    """Runs a command to its end: (exit status, seconds, peak RSS in MiB). Its output goes to `log`."""
    with open(log, "w", encoding="utf8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "\n".join(Path(log).read_text(errors="replace").splitlines()[-15:])
        sys.exit(f"exit status {process.returncode}: {' '.join(map(str, command))}\n{tail}")
    return seconds, usage.ru_maxrss / 1024


def measure_peer(options, kind, environment):
    log = options.work / f"peer-{kind}.log"
    command = [sys.executable, HF_BENCH, kind, "f32", str(options.threads), str(options.steps)]
    _, memory = run(command, log, environment | {"SMOLLM2": str(options.model)})
    found = re.search(r"-> ([\d.]+) tok/s .*others ([\d.]+) cores", log.read_text())
    return float(found[1]), memory, f"others used {found[2]} cores"


def make_long_rows(options):
    """Rows whose assistant text alone is longer than LENGTH tokens, made by joining answers."""
    # Not transformers: a child's ru_maxrss starts from the size of the process that forked it, so this one stays small.
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    path = options.work / "long-rows.jsonl"
    answers = [json.loads(line)["messages"][-1]["content"] for line in open(options.rows, encoding="utf8")]
    wanted = BATCH * (1 + options.steps)
    with open(path, "w", encoding="utf8") as output:
        for _ in range(wanted):
            text = ""
            while len(tokenizer.encode(text).ids) <= LENGTH:
                if not answers:
                    sys.exit(f"{options.rows} has too little text for {wanted} rows of {LENGTH} tokens: lower --steps")
                text += answers.pop() + "\n"
            messages = [{"role": "user", "content": "Describe these packages."}, {"role": "assistant", "content": text.strip()}]
            output.write(json.dumps({"messages": messages}) + "\n")
    return path


class Arrivals(threading.Thread):
    """Notes when each training row of a growing logging.jsonl is first seen."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.times, self.ended = path, [], threading.Event()

    def run(self):
        while not self.ended.wait(0.02):
            try:
                count = self.path.read_text().count('"loss"')
            except FileNotFoundError:
                continue
            self.times += [time.perf_counter()] * (count - len(self.times))

    def tokens_per_second(self):
        self.ended.set()
        self.join()
        gaps = [after - before for before, after in zip(self.times, self.times[1:])]
        return BATCH * LENGTH / statistics.median(gaps) if gaps and min(gaps) > 0 else None


def measure_swift(options, kind, rows, environment):
    output = options.work / f"swift-{kind}"
    shutil.rmtree(output, ignore_errors=True)
    plugins = [word for plugin in options.plugin for word in ("--plugin", plugin)]
    command = [
        options.swift.resolve(), *plugins, "sft", "--model", options.model, "--dataset", rows,
        "--tuner_type", "lora", "--lora_rank", RANK, "--lora_alpha", ALPHA, "--lora_dropout", 0, "--target_modules", "all-linear",
        "--torch_dtype", "float32", "--max_steps", 1 + options.steps, "--max_length", LENGTH, "--truncation_strategy", "right",
        "--per_device_train_batch_size", BATCH, "--gradient_accumulation_steps", 1,
        "--gradient_checkpointing", "true" if kind == "lora_gc" else "false",
        "--learning_rate", 1e-4, "--lr_scheduler_type", "constant",
        "--dataset_shuffle", "false", "--train_dataloader_shuffle", "false",
        "--logging_steps", 1, "--save_strategy", "no", "--output_dir", output, "--add_version", "false",
    ]  # fmt: skip
    arrivals = Arrivals(output / "logging.jsonl")
    arrivals.start()
    seconds, memory = run([str(word) for word in command], options.work / f"swift-{kind}.log", environment)
    seen = arrivals.tokens_per_second()
    logged = [json.loads(line) for line in (output / "logging.jsonl").read_text().splitlines()]
    speeds = [row["train_speed(tokens/s)"] for row in logged if "loss" in row][1:]
    if len(speeds) != options.steps:
        sys.exit(f"{output / 'logging.jsonl'} has {len(speeds)} measured steps, {options.steps} were asked for: were rows dropped?")
    speed = statistics.median(speeds)
    note = f"whole run {seconds:.1f} s; seen from outside {seen:.1f} tokens/s" if seen else f"whole run {seconds:.1f} s"
    if seen and abs(seen / speed - 1) > 0.1:
        note += " - WARNING: more than 10 % from what swift logs"
    return speed, memory, note


def measure_help(options, times=20):
    """Median wall time of `swift --help` in milliseconds, process start and end included."""
    walls = []
    for _ in range(times + 1):
        start = time.perf_counter()
        subprocess.run([options.swift.resolve(), "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        walls.append(1000 * (time.perf_counter() - start))
    return statistics.median(walls[1:])


def main():
    options = arguments()
    options.model, options.work = options.model.resolve(), options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")}
    environment = os.environ | threads | {"HF_HUB_OFFLINE": "1"}
    rows = None if options.only_peer else make_long_rows(options)
    programs = {"peer": lambda kind: measure_peer(options, kind, environment)}
    if not options.only_peer:
        programs["swift"] = lambda kind: measure_swift(options, kind, rows, environment)

    results = {}
    for repeat in range(options.repeats):
        for kind in options.kinds:
            for program, measure in programs.items():
                speed, memory, note = measure(kind)
                results.setdefault((kind, program), []).append((speed, memory))
                load = os.getloadavg()[0]
                print(f"{repeat + 1}/{options.repeats} {kind:8} {program:5} {speed:8.1f} tokens/s {memory:7.0f} MiB  load {load:.1f}; {note}", flush=True)

    def median(kind, program, column):
        return statistics.median(values[column] for values in results[kind, program])

    print(f"\nSmolLM2-135M, f32, {BATCH} x {LENGTH} tokens, rank {RANK}, {options.threads} threads, medians of {options.repeats}\n")
    print("| what | transformers + peft | swift | ratio | peak RSS peer | peak RSS swift | ratio |")
    print("|---|---|---|---|---|---|---|")
    for kind in options.kinds:
        speed, memory = median(kind, "peer", 0), median(kind, "peer", 1)
        cells = [KINDS[kind], f"{speed:.1f} tokens/s", "-", "-", f"{memory:.0f} MiB", "-", "-"]
        if not options.only_peer:
            ours, used = median(kind, "swift", 0), median(kind, "swift", 1)
            cells[2:4] = f"{ours:.1f} tokens/s", f"{ours / speed:.2f}"
            cells[5:7] = f"{used:.0f} MiB", f"{used / memory:.2f}"
        print("| " + " | ".join(cells) + " |")
    if not options.only_peer:
        print(f"\n`swift --help`: {measure_help(options):.1f} ms (median of 20)")
    (options.work / "results.json").write_text(json.dumps({f"{kind} {program}": values for (kind, program), values in results.items()}, indent=1))


if __name__ == "__main__":
    main()
