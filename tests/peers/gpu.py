#!/usr/bin/env python3
"""Training and generation speed and memory of `swift` against transformers + peft on one NVIDIA GPU.

    python gpu.py --benchmark PATH/TO/gpu_benchmark [--rows lora-0.6b decode-4b-64 ...] [--peer-settings sdpa liger ...] [--budget 450]
    python gpu.py --dry-run                     # the peer's side on the CPU with tiny shapes: checks this script, measures nothing

Work: untrained Qwen3 models of the shapes of 0.6B and 4B with random bf16 weights, made here and written as Hugging Face folders, so both
programs train the same weights on the same random tokens, all of them labelled; the first loss of both is printed as a check of that.
Every measurement is a process of its own. Per row: each peer setting once, then swift, then `--repeats` - 1 times the fastest peer
setting and swift again. Each figure is the median of its repeats, each repeat the median of its steps after warm-up steps.

Peer: SDPA, fused AdamW, weights and adapters in bf16. A setting is one or more of these words joined by `+`:
  sdpa           nothing more                               checkpointing  gradient checkpointing
  autocast       adapters in f32, torch.autocast            cudnn          attention by cuDNN alone
  compile        torch.compile, layer by layer              liger          Liger's rope, norm, SwiGLU and fused head loss
  double         (NF4) constants quantised too              static         (decode) static cache, compiled by generate()
A setting that fails or whose library is missing is a line with its error, and the others count.

Memory: torch's largest allocated bytes against swift's largest allocated bytes; `device` is the most that nvidia-smi saw in use on the
device above what it was before, for both alike. Floating-point operations: two for each weight of a matrix (the head's too) and token;
attention causal; backward twice forward, frozen weights only their inputs' half; LoRA's own left out.
"""

import argparse
import array
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import gpu_table

MODELS = {
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8},
}
VOCABULARY, HEAD = 151936, 128
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PROMPT, NEW = 128, 256
PEER_TRAIN = ["sdpa", "liger", "cudnn", "liger+cudnn", "compile", "checkpointing", "autocast"]
ROWS = {
    "lora-0.6b": {"model": "0.6B", "kind": "lora", "batch": 8, "length": 2048, "settings": PEER_TRAIN},
    "lora-4b": {"model": "4B", "kind": "lora", "batch": 4, "length": 2048, "settings": PEER_TRAIN},
    "full-0.6b": {"model": "0.6B", "kind": "full", "batch": 8, "length": 2048, "settings": [s for s in PEER_TRAIN if s != "autocast"]},
    "qlora-4b": {"model": "4B", "kind": "lora", "quant": "nf4", "batch": 4, "length": 2048, "settings": ["sdpa", "liger", "liger+cudnn", "double"]},
    "decode-0.6b-1": {"model": "0.6B", "kind": "decode", "batch": 1, "settings": ["sdpa"]},
    "decode-4b-1": {"model": "4B", "kind": "decode", "batch": 1, "settings": ["sdpa"]},
    "decode-0.6b-64": {"model": "0.6B", "kind": "decode", "batch": 64, "settings": ["sdpa"]},
    "decode-4b-64": {"model": "4B", "kind": "decode", "batch": 64, "settings": ["sdpa"]},
}
# Seconds to expect of one measurement, for --budget, until one like it was seen.
EXPECTED = {"ceilings": 15, "checkpoint": 20, "train": 25, "decode": 25, "compile": 90, "static": 90, "swift": 25}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", type=Path, help="swift's side: the program gpu_benchmark (examples of the crate `tests`)")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--peer-settings", nargs="*", help="instead of each row's own list; none: no peer")
    parser.add_argument("--repeats", type=int, default=2, help="measurements of the fastest peer setting and of swift")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds; what would not fit is left out and said")
    parser.add_argument("--work", type=Path, help="folder for the checkpoints (10 GiB; default: memory, else a temporary one)")
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for gpu.json, gpu.md and logs")
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="gpu.json of earlier runs, to print one table of all")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--spawn", action="store_true", help="start Python anew for each peer measurement instead of forking")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return options
    if options.benchmark is None and not options.dry_run:
        parser.error("give --benchmark PATH (it is built by `cargo xtask gpu pack`), or --dry-run")
    if options.benchmark is not None and not options.benchmark.exists():
        parser.error(f"no such file: {options.benchmark}")
    for words in options.peer_settings or []:
        unknown = set(words.split("+")) - {"sdpa", "checkpointing", "autocast", "cudnn", "compile", "liger", "double", "static"}
        if unknown:
            parser.error(f"unknown peer setting {', '.join(sorted(unknown))}")
    return options


# The peer: everything below runs in a forked child, so that CUDA's context, its memory and Liger's patches end with it.


FORKED = "the parent process has used CUDA,"


class Peer:
    def __init__(self, device):
        import torch

        self.torch, self.device = torch, device
        self.cuda = device == "cuda"
        if self.cuda and torch.cuda._is_in_bad_fork():
            raise RuntimeError(f"{FORKED} so a fork of it cannot")

    def synchronize(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def peak(self):
        return self.torch.cuda.max_memory_allocated() if self.cuda else 0

    def ids(self, path, batch):
        values = array.array("I")
        values.frombytes(Path(path).read_bytes())
        return self.torch.tensor(values.tolist(), dtype=self.torch.long).view(batch, -1).to(self.device)

    def build(self, shape, cache=False):
        from transformers import Qwen3Config, Qwen3ForCausalLM

        torch = self.torch
        config = Qwen3Config(
            tie_word_embeddings=True, max_position_embeddings=40960, rope_theta=1e6, rms_norm_eps=1e-6, use_cache=cache,
            attn_implementation="sdpa", bos_token_id=None, eos_token_id=None, **shape,
        )  # fmt: skip
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(self.device):
            model = Qwen3ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
        return model

    def checkpoint(self, shape, folder):
        model = self.build(shape, cache=True)
        model.save_pretrained(folder)
        return {"tensors": len(model.state_dict())}

    def quantised(self, folder, double):
        from transformers import BitsAndBytesConfig, Qwen3ForCausalLM

        bf16 = self.torch.bfloat16
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=bf16, bnb_4bit_use_double_quant=double)
        model = Qwen3ForCausalLM.from_pretrained(
            folder, quantization_config=nf4, dtype=bf16, device_map={"": 0 if self.cuda else "cpu"}, attn_implementation="sdpa"
        )
        model.config.use_cache = False
        return model

    def train(self, shape, folder, tokens, kind, quant, batch, setting, steps, warmup):
        torch = self.torch
        words = set(setting.split("+"))
        if "liger" in words:
            from liger_kernel.transformers import apply_liger_kernel_to_qwen3

            apply_liger_kernel_to_qwen3(rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True)
        model = self.quantised(folder, "double" in words) if quant else self.build(shape)
        if kind == "lora":
            from peft import LoraConfig, get_peft_model

            lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules=PROJECTIONS)
            model = get_peft_model(model, lora, autocast_adapter_dtype="autocast" in words)
        if "checkpointing" in words:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if kind == "lora":
                model.enable_input_require_grads()
        model.train()
        if "compile" in words:
            for layer in (model.base_model.model if kind == "lora" else model).model.layers:
                layer.compile()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        ids = self.ids(tokens, batch)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        autocast = (lambda: torch.autocast(self.device, torch.bfloat16)) if "autocast" in words else contextlib.nullcontext
        attention = contextlib.nullcontext
        if "cudnn" in words:
            from torch.nn.attention import SDPBackend, sdpa_kernel

            attention = lambda: sdpa_kernel([SDPBackend.CUDNN_ATTENTION])
        times, losses = [], []
        for step in range(warmup + steps):
            self.synchronize()
            start = time.perf_counter()
            with autocast(), attention():
                loss = model(input_ids=ids, labels=ids).loss
            with attention():
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self.synchronize()
            times.append(time.perf_counter() - start)
            losses.append(loss.item())
        return {
            "step_ms": 1000 * statistics.median(times[warmup:]), "memory": self.peak(), "first_loss": losses[0], "last_loss": losses[-1],
            "trained": sum(parameter.numel() for parameter in trained), "warmup_s": sum(times[:warmup]),
        }  # fmt: skip

    def decode(self, shape, tokens, batch, new, setting):
        torch = self.torch
        model = self.build(shape, cache=True)
        model.eval()
        model.generation_config.pad_token_id = 0
        ids = self.ids(tokens, batch)
        mask = torch.ones_like(ids)
        extra = {"cache_implementation": "static"} if "static" in setting.split("+") else {}

        def generate(count):
            self.synchronize()
            start = time.perf_counter()
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False, use_cache=True, eos_token_id=None, **extra
            )
            self.synchronize()
            return out[:, ids.shape[1]:], time.perf_counter() - start

        with torch.no_grad():
            # A static cache is compiled for its length, so its warm-up is a whole run.
            generate(new if extra else min(8, new))
            first = None if extra else min(generate(1)[1] for _ in range(2))
            out, seconds = generate(new)
        count = out.shape[1]
        result = {"seconds": seconds, "new": count, "step_ms": 1000 * seconds / count, "memory": self.peak(), "tokens": out[0].tolist()}
        if first is not None:
            result |= {"prefill_ms": 1000 * first, "decode_ms": 1000 * (seconds - first) / max(count - 1, 1)}
        return result

    def ceilings(self, size, copied):
        torch = self.torch

        def median_ms(function, times=10, calls=10):
            found = []
            for _ in range(times + 2):
                self.synchronize()
                start = time.perf_counter()
                for _ in range(calls):
                    function()
                self.synchronize()
                found.append(1000 * (time.perf_counter() - start) / calls)
            return statistics.median(found[2:])

        a, b = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        matmul = median_ms(lambda: a @ b)
        source = torch.empty(copied, device=self.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        copy = median_ms(lambda: target.copy_(source))
        return {"tflops": 2 * size**3 / matmul / 1e9, "copy_gbs": 2 * copied / copy / 1e6, "torch": torch.__version__}


def child(log, write, spawn, device, method, parameters):
    """The child's part of in_child: ends the process."""
    try:
        with contextlib.suppress(PermissionError):  # after --spawn it leads a session already
            os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if spawn:
            os.set_inheritable(write, True)
            os.execv(sys.executable, [sys.executable, __file__, "--child", json.dumps([log, write, device, method, parameters])])
        result = getattr(Peer(device), method)(**parameters)
    except BaseException as error:  # noqa: BLE001, whatever it is is the measurement's result
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"[:300]}
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(write, json.dumps(result).encode() + b"\n")
    os._exit(0)


def in_child(log, seconds, spawn, device, method, **parameters):
    """Runs a method of Peer in a child process and gives its result, or `{"error": ..}`; its output goes to `log`."""
    read, write = os.pipe()
    number = os.fork()
    if number == 0:
        child(str(log), write, spawn, device, method, parameters)
    os.close(write)

    def end():
        # The child and what it started (compilers): they are one process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    with os.fdopen(read, "rb") as pipe:
        text = pipe.readline()
    timer.cancel()
    end()
    os.waitpid(number, 0)
    return json.loads(text) if text else {"error": f"ended without a result, or was ended after {seconds:.0f} s; see {log}"}


# swift's side: one process for each measurement, whose last line of output is a JSON object.


def libraries():
    """Folders of CUDA's libraries where pip puts them."""
    roots = {Path(path) / "nvidia" for path in sys.path if path.endswith("-packages")}
    return [str(folder) for root in roots if root.is_dir() for folder in sorted(root.glob("*/lib"))]


def swift(options, log, seconds, *words):
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = ":".join([*libraries(), *filter(None, [environment.get("LD_LIBRARY_PATH")])])
    command = [str(word) for word in (options.benchmark.resolve(), *words)]
    if options.dry_run:
        command += ["--device", "cpu"]
    with open(log, "a", encoding="utf8") as output:
        output.write(" ".join(command) + "\n")
        output.flush()
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=output, env=environment, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {seconds:.0f} s"}
        text = done.stdout.decode(errors="replace")
        output.write(text)
    lines = [line for line in text.splitlines() if line.startswith("{")]
    result = json.loads(lines[-1]) if lines else {}
    if done.returncode:
        errors = [line for line in Path(log).read_text(errors="replace").splitlines() if line.startswith("error")]
        message = f"exit status {done.returncode}: {errors[-1] if errors else ''}"[:600]
        # It measures first and profiles then: what it measured counts.
        return result | {"warning" if "step_ms" in result else "error": message}
    return result or {"error": "printed no result"}


class DeviceMemory:
    """The most bytes in use on the device, sampled by nvidia-smi while something runs."""

    def __init__(self, enabled):
        self.values, self.lock, self.process = [], threading.Lock(), None
        if enabled and shutil.which("nvidia-smi"):
            command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "50", "-i", "0"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()
            time.sleep(0.5)
        self.idle = self.take()

    def _read(self):
        for line in self.process.stdout:
            if line.strip().isdigit():
                with self.lock:
                    self.values.append(int(line) << 20)

    def take(self):
        """The largest since the last call."""
        with self.lock:
            values, self.values = self.values, []
        return max(values, default=0)

    def end(self):
        if self.process:
            self.process.terminate()


class Runner:
    def __init__(self, options):
        self.options, self.begun = options, time.perf_counter()
        self.device = "cpu" if options.dry_run else "cuda"
        self.results, self.left_out, self.seen = {"ceilings": {}, "rows": {}}, [], {}
        self.memory = DeviceMemory(not options.dry_run)
        self.logs = options.output / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        for path in options.merge:
            earlier = json.loads(path.read_text())
            for name, values in earlier["ceilings"].items():
                self.results["ceilings"].setdefault(name, values)
            for row, measured in earlier["rows"].items():
                for name, values in measured.items():
                    self.results["rows"].setdefault(row, {}).setdefault(name, []).extend(values)

    def shape(self, model):
        shape = {"vocab_size": VOCABULARY, "head_dim": HEAD, **MODELS[model]}
        if self.options.dry_run:
            layers = 2 if model == "0.6B" else 3
            shape |= {"vocab_size": 512, "head_dim": 16, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": layers}
            shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        return shape

    def sizes(self, row):
        """(batch, tokens of a row or of a prompt, new tokens)."""
        decode = row["kind"] == "decode"
        if self.options.dry_run:
            return min(row["batch"], 3), 16, 6 if decode else 0
        return row["batch"], PROMPT if decode else row["length"], NEW if decode else 0

    def folder(self, model):
        """The checkpoint, made at first use."""
        folder = self.options.work / f"qwen3-{model}"
        if not (folder / "config.json").exists():
            outcome = self.peer("checkpoint", f"checkpoint-{model}", "checkpoint", shape=self.shape(model), folder=str(folder))
            if "error" in outcome:
                sys.exit(f"the {model} checkpoint could not be made: {outcome['error']} ({self.logs})")
        return folder

    def tokens(self, batch, length):
        path = self.options.work / f"tokens-{batch}x{length}.u32"
        if not path.exists():
            random_numbers, vocabulary = random.Random(batch * 1000003 + length), self.shape("0.6B")["vocab_size"]
            path.write_bytes(array.array("I", (random_numbers.randrange(vocabulary) for _ in range(batch * length))).tobytes())
        return path

    def fits(self, cost, name):
        """The seconds it may take; None when they are not left. A wrong guess costs little: twice the guess is allowed."""
        left = self.options.budget - (time.perf_counter() - self.begun)
        expected = self.seen.get(cost, EXPECTED[cost])
        if left < expected:
            self.left_out.append(name)
            print(f"left out, {left:.0f} s of the budget left: {name}", flush=True)
            return None
        return min(left, 600.0 if cost not in ("compile", "static") else 900.0)

    def measure(self, cost, name, function):
        seconds = self.fits(cost, name)
        if seconds is None:
            return {"error": "left out: no time"}
        self.memory.take()
        start = time.perf_counter()
        outcome = function(seconds)
        took = time.perf_counter() - start
        outcome["device_memory"] = max(self.memory.take() - self.memory.idle, 0)
        if "error" not in outcome:
            self.seen[cost] = max(took, self.seen.get(cost, 0))
        shown = {key: round(value, 4) if isinstance(value, float) else value for key, value in outcome.items() if key not in ("tokens", "profile")}
        print(f"{time.perf_counter() - self.begun:6.0f} s  {name} ({took:.0f} s): {json.dumps(shown)}", flush=True)
        return outcome

    def peer(self, method, name, cost, **parameters):
        run = lambda seconds: in_child(self.logs / f"{name}.log", seconds, self.options.spawn, self.device, method, **parameters)
        outcome = self.measure(cost, f"peer {name}", run)
        if FORKED in outcome.get("error", "") and not self.options.spawn:
            self.options.spawn = True
            return self.peer(method, name, cost, **parameters)
        return outcome

    def swift(self, name, *words):
        return self.measure("swift", f"swift {name}", lambda seconds: swift(self.options, self.logs / f"{name}.log", seconds, *words))

    def keep(self, key, program, outcome):
        self.results["rows"].setdefault(key, {}).setdefault(program, []).append(outcome)
        self.write()

    def peer_row(self, key, setting):
        row = ROWS[key]
        batch, length, new = self.sizes(row)
        cost = next((word for word in ("compile", "static") if word in setting), "decode" if new else "train")
        common = {"shape": self.shape(row["model"]), "tokens": str(self.tokens(batch, length)), "batch": batch, "setting": setting}
        if new:
            outcome = self.peer("decode", f"{key}-{setting}", cost, new=new, **common)
        else:
            quant = row.get("quant")
            folder = str(self.folder(row["model"])) if quant else ""
            steps = {"steps": self.options.steps, "warmup": self.options.warmup}
            outcome = self.peer("train", f"{key}-{setting}", cost, folder=folder, kind=row["kind"], quant=quant, **steps, **common)
        self.keep(key, setting, outcome)

    def swift_row(self, key):
        row = ROWS[key]
        batch, length, new = self.sizes(row)
        common = ["--model", self.folder(row["model"]), "--tokens", self.tokens(batch, length), "--profile", min(8, new - 1) if new else 2]
        if new:
            outcome = self.swift(key, "generate", *common, "--batch", batch, "--prompt", length, "--new", new)
        else:
            tuner = ["--tuner", row["kind"], "--rank", 16, "--quant", row.get("quant", "none")]
            steps = ["--steps", self.options.steps, "--warmup", self.options.warmup]
            outcome = self.swift(key, "train", *common, "--rows", f"{batch}x{length}", *tuner, *steps)
        self.keep(key, "swift", outcome)

    def row(self, key):
        settings = ROWS[key]["settings"] if self.options.peer_settings is None else self.options.peer_settings
        for setting in settings:
            self.peer_row(key, setting)
        for repeat in range(self.options.repeats):
            best = gpu_table.best(self.results["rows"].get(key, {}))
            if repeat and best and settings:
                self.peer_row(key, best)
            if self.options.benchmark:
                self.swift_row(key)

    def ceilings(self):
        size, copied = (64, 1 << 16) if self.options.dry_run else (8192, 1 << 32)
        self.results["ceilings"]["torch"] = self.peer("ceilings", "ceilings", "ceilings", size=size, copied=copied)
        if self.options.benchmark:
            self.results["ceilings"]["swift"] = self.swift("ceilings", "ceilings", "--size", size, "--bytes", copied)

    def write(self):
        (self.options.output / "gpu.json").write_text(json.dumps(self.results, indent=1))


def preload():
    """Imports what every child needs, once. Nothing here may start CUDA, or the children could not use it."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import peft
    import torch
    import transformers
    from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: F401, they load the model's module

    gc.freeze()
    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def main():
    options = arguments()
    if options.child:
        log, write, device, method, parameters = json.loads(options.child)
        preload()
        child(log, write, False, device, method, parameters)
    options.output.mkdir(parents=True, exist_ok=True)
    made = None
    if options.work is None:
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 12 << 30
        made = options.work = Path(tempfile.mkdtemp(prefix="swift-gpu-", dir=memory if roomy and not options.dry_run else None))
    options.work.mkdir(parents=True, exist_ok=True)
    print(preload(), flush=True)
    runner = Runner(options)
    try:
        runner.ceilings()
        for key in options.rows:
            runner.row(key)
    finally:
        runner.memory.end()
        if made:
            shutil.rmtree(made, ignore_errors=True)
        runner.write()
        table = gpu_table.table(runner.results, ROWS, runner.shape, runner.sizes)
        if runner.left_out:
            table += f"\nLeft out, the budget of {options.budget:.0f} s was used: {', '.join(runner.left_out)}.\n"
        (options.output / "gpu.md").write_text(table)
        print("\n" + table, flush=True)


if __name__ == "__main__":
    main()
