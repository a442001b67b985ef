#!/usr/bin/env python3
"""Trains the same LoRA with transformers + peft and with `swift`, and checks that the two agree and read each other's files.

    python conformance.py --model HF_FOLDER --swift PATH/TO/swift [--plugin FILE.wasm] [--gguf FILE.gguf] [--steps 20]
    python conformance.py --model HF_FOLDER --only-peer        # the transformers + peft half alone, kept for later runs

Both continue from one initial adapter (A and B random), on the same rows in the same order, in f32. The peer's half is kept in
--work and used again while its settings stay the same. What is trained is written in `peer.py`. Exit status: 0 when every check
passes, 1 when one fails.

Checks
  1  loss of every step, difference at most 1e-3; at step 1 (equal weights) also the loss at 1e-4 and the gradient norm at 1e-3
  2  swift's checkpoint loads in peft; its held-out loss there equals the eval_loss which swift reports
  3  the folder of `swift merge-lora` loads in transformers, in f32, with the logits of peft + adapter, and keeps the tokenizer
  4  greedy answers of `swift infer` equal those of transformers: the base model, the adapter, and (with --gguf) the GGUF file
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROMPTS = ["What is the capital of France?", "2+2", "Write one sentence about the sea."]
BATCH, MAX_LENGTH, RANK, ALPHA = 2, 512, 8, 16
LEARNING_RATE, WEIGHT_DECAY, BETAS, MAX_NORM = 1e-4, 0.1, (0.9, 0.95), 1.0
NEW_TOKENS, HELD_OUT = 40, 8
LOSS_TOLERANCE, FIRST_LOSS_TOLERANCE, FIRST_NORM_TOLERANCE = 1e-3, 1e-4, 1e-3
EVAL_TOLERANCE, LOGITS_TOLERANCE = 1e-4, 1e-4
TIE = 1e-3  # two tokens whose logits differ by less than this may swap between two correct f32 programs
ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True  # no __pycache__ in the source tree


class Report:
    """Collects the checks and prints each as it is made."""

    def __init__(self):
        self.failed = 0

    def check(self, name, passed, detail):
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'}  {name}: {detail}", flush=True)
        return passed


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="Hugging Face folder of SmolLM2-135M-Instruct")
    parser.add_argument("--swift", type=Path, help="the swift binary")
    parser.add_argument("--plugin", action="append", default=[], help="passed to swift as `--plugin FILE` before the verb; may repeat")
    parser.add_argument("--gguf", type=Path, help="also compare greedy answers from this GGUF file of the same model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=Path, help="training rows (default: sft.jsonl beside the model folder)")
    parser.add_argument("--held-out", type=Path, help="held-out rows (default: sft_val.jsonl beside the model folder)")
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "peers" / "conformance")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only-peer", action="store_true", help="run and keep the transformers + peft half, then stop")
    options = parser.parse_args()
    if not options.only_peer and options.swift is None:
        parser.error("give --swift PATH, or --only-peer")
    if options.swift is not None and not options.swift.exists():
        parser.error(f"no such file: {options.swift}")
    options.rows = options.rows or options.model.parent / "sft.jsonl"
    options.held_out = options.held_out or options.model.parent / "sft_val.jsonl"
    for path in (options.model / "config.json", options.rows, options.held_out):
        if not path.exists():
            parser.error(f"no such file: {path} (tests/peers/setup.sh makes the model folder and its rows)")
    return options


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_of(options):
    """All that the peer's half depends on; a kept result with other settings is made again."""
    weights = sorted(options.model.glob("*.safetensors"))
    return {
        "steps": options.steps,
        "model": {path.name: digest(path) for path in weights},
        "rows": digest(options.rows),
        "held_out": digest(options.held_out),
        "code": [digest(Path(__file__).with_name(name)) for name in ("peer.py",)],
        "training": [BATCH, MAX_LENGTH, RANK, ALPHA, LEARNING_RATE, WEIGHT_DECAY, list(BETAS), MAX_NORM],
        "generation": [PROMPTS, NEW_TOKENS],
        "held_out_rows": HELD_OUT,
    }


def choose_rows(tokenizer, source, count):
    """The first `count` rows of no more than MAX_LENGTH tokens: (messages, encoded)."""
    import peer

    chosen = []
    for messages in peer.read_rows(source):
        encoded = peer.encode(tokenizer, messages)
        if len(encoded[0]) <= MAX_LENGTH:
            chosen.append((messages, encoded))
        if len(chosen) == count:
            return [m for m, _ in chosen], [e for _, e in chosen]
    sys.exit(f"{source} has only {len(chosen)} rows of at most {MAX_LENGTH} tokens, {count} are needed: lower --steps")


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf8")


def run_peer(options, settings, tokenizer, train_rows, held_out):
    """The transformers + peft half; everything it found is in WORK/peer.json."""
    import peer

    kept = options.work / "peer.json"
    if kept.exists():
        result = json.loads(kept.read_text())
        if result["settings"] == settings:
            print(f"== peer: kept result of {kept}")
            return result
    print("== peer: transformers + peft")
    initial = options.work / "initial"
    shutil.rmtree(initial, ignore_errors=True)
    peer.save_initial_adapter(options.model, initial, RANK, ALPHA)
    pad = tokenizer.pad_token_id
    model = peer.load_adapter(options.model, initial, trainable=True)
    with model.disable_adapter():
        base_answers = [peer.greedy(model, tokenizer, prompt, NEW_TOKENS) for prompt in PROMPTS]
    batches = [peer.collate(train_rows[i : i + BATCH], pad) for i in range(0, len(train_rows), BATCH)]
    history = peer.train(model, batches, LEARNING_RATE, WEIGHT_DECAY, BETAS, MAX_NORM)
    model.save_pretrained(options.work / "peer-adapter")
    result = {
        "settings": settings,
        "history": history,
        "held_out": peer.evaluate(model, held_out, pad),
        "base_answers": base_answers,
        "adapter_answers": [peer.greedy(model, tokenizer, prompt, NEW_TOKENS) for prompt in PROMPTS],
    }
    kept.write_text(json.dumps(result, indent=1))
    print(f"== peer: kept in {kept}; held-out loss {result['held_out']['per_token']:.6f} a token")
    return result


def swift(options, log, *words):
    """Runs the binary; its output goes to WORK/LOG. True when it succeeded."""
    plugins = [word for plugin in options.plugin for word in ("--plugin", plugin)]
    command = [str(options.swift.resolve()), *plugins, *map(str, words)]
    print("  $", " ".join(command), flush=True)
    path = options.work / log
    with open(path, "w", encoding="utf8") as output:
        status = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=options.work).returncode
    if status:
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-15:])
        print(f"  exit status {status}; end of {path}:\n{tail}", flush=True)
    return status == 0


def read_log(path):
    """(loss rows by step, the last eval_loss) of a logging.jsonl."""
    losses, eval_loss = {}, None
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if "loss" in row:
            losses[int(str(row["global_step/max_steps"]).split("/")[0])] = row
        if "eval_loss" in row:
            eval_loss = row["eval_loss"]
    return losses, eval_loss


def check_training(options, report, history):
    """Check 1; returns (swift's checkpoint folder or None, its eval_loss or None)."""
    output = options.work / "swift"
    shutil.rmtree(output, ignore_errors=True)
    done = swift(
        options, "swift-sft.log", "sft",
        "--model", options.model, "--adapters", options.work / "initial",
        "--dataset", options.work / "rows.jsonl", "--val_dataset", options.work / "held-out.jsonl",
        "--tuner_type", "lora",
        "--torch_dtype", "float32", "--max_steps", options.steps, "--max_length", MAX_LENGTH,
        "--per_device_train_batch_size", BATCH, "--per_device_eval_batch_size", 1, "--gradient_accumulation_steps", 1,
        "--gradient_checkpointing", "false",
        "--learning_rate", LEARNING_RATE, "--lr_scheduler_type", "constant", "--warmup_ratio", 0,
        "--weight_decay", WEIGHT_DECAY, "--adam_beta1", BETAS[0], "--adam_beta2", BETAS[1], "--max_grad_norm", MAX_NORM,
        "--dataset_shuffle", "false", "--train_dataloader_shuffle", "false",
        "--logging_steps", 1, "--eval_strategy", "steps", "--eval_steps", options.steps, "--save_steps", options.steps,
        "--output_dir", output, "--add_version", "false",
    )  # fmt: skip
    if not report.check("swift sft", done, "exit status 0" if done else "see swift-sft.log"):
        return None, None
    losses, eval_loss = read_log(output / "logging.jsonl")
    complete = sorted(losses) == list(range(1, options.steps + 1))
    if report.check("logged steps", complete, f"{len(losses)} of {options.steps}"):
        differences = [abs(losses[i + 1]["loss"] - row["loss"]) for i, row in enumerate(history)]
        print("  step   peer       swift      difference")
        for i, row in enumerate(history):
            print(f"  {i + 1:4}   {row['loss']:.6f}   {losses[i + 1]['loss']:.6f}   {differences[i]:.2e}")
        worst = max(range(len(differences)), key=differences.__getitem__)
        detail = f"worst {differences[worst]:.2e} at step {worst + 1} (allowed {LOSS_TOLERANCE:.0e})"
        report.check("loss curve", max(differences) <= LOSS_TOLERANCE, detail)
        detail = f"difference {differences[0]:.2e} (allowed {FIRST_LOSS_TOLERANCE:.0e})"
        report.check("loss of step 1", differences[0] <= FIRST_LOSS_TOLERANCE, detail)
        ours, theirs = losses[1]["grad_norm"], history[0]["grad_norm"]
        relative = abs(ours - theirs) / theirs
        detail = f"{ours:.6f} against {theirs:.6f}, relative {relative:.1e} (allowed {FIRST_NORM_TOLERANCE:.0e})"
        report.check("gradient norm of step 1", relative <= FIRST_NORM_TOLERANCE, detail)
    checkpoint = output / f"checkpoint-{options.steps}"
    exists = report.check("checkpoint", (checkpoint / "adapter_model.safetensors").exists(), checkpoint)
    return (checkpoint if exists else None), eval_loss


def check_adapter(options, report, tokenizer, held_out, checkpoint, eval_loss):
    """Check 2; returns the peft model with swift's adapter."""
    import peer
    from safetensors.torch import load_file

    model = peer.load_adapter(options.model, checkpoint)
    ours = load_file(checkpoint / "adapter_model.safetensors")
    theirs = load_file(options.work / "peer-adapter" / "adapter_model.safetensors")
    same_names = ours.keys() == theirs.keys()
    odd = sorted(ours.keys() ^ theirs.keys())[:4]
    report.check("adapter tensors", same_names, f"{len(ours)} names as peft's" if same_names else f"differ: {odd}")
    if same_names:
        square = sum((ours[name].double() - theirs[name].double()).square().sum() for name in ours)
        moved = load_file(options.work / "initial" / "adapter_model.safetensors")
        way = sum((theirs[name].double() - moved[name].double()).square().sum() for name in ours)
        print(f"  trained adapters differ by {float((square / way) ** 0.5):.1e} of the way the peer's moved (AdamW's signs amplify noise; for information)")
    loss = peer.evaluate(model, held_out, tokenizer.pad_token_id)
    if eval_loss is None:
        report.check("held-out loss", False, "swift's logging.jsonl has no eval_loss")
    else:
        difference = abs(loss["per_token"] - eval_loss)
        detail = f"swift {eval_loss:.6f}, peft with swift's adapter {loss['per_token']:.6f} a token, difference {difference:.1e} (allowed {EVAL_TOLERANCE:.0e})"
        if difference > EVAL_TOLERANCE and abs(loss["per_row"] - eval_loss) <= EVAL_TOLERANCE:
            detail += f"; swift reports the mean of the rows' means ({loss['per_row']:.6f}) instead of the mean over tokens"
        report.check("held-out loss", difference <= EVAL_TOLERANCE, detail)
    return model


def check_merged(options, report, tokenizer, held_out, checkpoint, adapted):
    """Check 3."""
    import peer
    import torch
    from transformers import AutoModelForCausalLM

    merged = options.work / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    words = ("--model", options.model, "--adapters", checkpoint, "--torch_dtype", "float32", "--output_dir", merged)
    done = swift(options, "swift-merge.log", "merge-lora", *words)
    if not report.check("swift merge-lora", done, merged if done else "see swift-merge.log"):
        return
    model, loading = AutoModelForCausalLM.from_pretrained(merged, dtype="auto", output_loading_info=True)
    missing = {key: sorted(value)[:4] for key, value in loading.items() if value}
    report.check("merged folder loads in transformers", not missing, missing or "no missing or unexpected tensor")
    report.check("merged dtype", model.dtype == torch.float32, model.dtype)
    expected, actual = peer.logits_of(adapted, held_out[:3]), peer.logits_of(model, held_out[:3])
    worst = max(float((a - e).norm() / e.norm()) for a, e in zip(actual, expected))
    report.check("merged logits", worst <= LOGITS_TOLERANCE, f"relative {worst:.1e} (allowed {LOGITS_TOLERANCE:.0e})")
    with adapted.disable_adapter():
        base = peer.logits_of(adapted, held_out[:3])
    away = min(float((e - b).norm() / b.norm()) for e, b in zip(expected, base))
    report.check("the adapter changes the logits", away > 10 * LOGITS_TOLERANCE, f"relative {away:.1e}")
    copy = peer.load_tokenizer(merged)
    text = tokenizer.apply_chat_template([{"role": "user", "content": PROMPTS[0]}], tokenize=False)
    same = copy.chat_template == tokenizer.chat_template and copy(text)["input_ids"] == tokenizer(text)["input_ids"]
    report.check("merged tokenizer", same, "same template and tokens" if same else "differs")


def check_greedy(options, report, tokenizer, name, expected, words):
    """Check 4: texts equal, or they part where the peer's two best logits are a tie."""
    result = options.work / f"swift-infer-{name}.jsonl"
    result.unlink(missing_ok=True)
    done = swift(
        options, f"swift-infer-{name}.log", "infer", *words,
        "--val_dataset", options.work / "prompts.jsonl", "--result_path", result, "--torch_dtype", "float32",
        "--temperature", 0, "--max_new_tokens", NEW_TOKENS, "--stream", "false",
    )  # fmt: skip
    if not report.check(f"swift infer, {name}", done and result.exists(), result if done else "failed"):
        return
    responses = [json.loads(line)["response"] for line in result.read_text(encoding="utf8").splitlines()]
    if not report.check(f"answers, {name}", len(responses) == len(expected), f"{len(responses)} of {len(expected)}"):
        return
    for ours, theirs in zip(responses, expected):
        if ours == theirs["text"]:
            report.check(f"greedy, {name}", True, f"{theirs['prompt']!r} -> {theirs['text'][:50]!r}")
            continue
        ids = tokenizer(ours, add_special_tokens=False)["input_ids"]
        at = next((i for i, (a, b) in enumerate(zip(ids, theirs["new_ids"])) if a != b), min(len(ids), len(theirs["new_ids"]) - 1))
        margin = theirs["margins"][at]
        detail = f"{theirs['prompt']!r}: {ours!r} against {theirs['text']!r}; they part at new token {at}, where the peer's two best logits differ by {margin:.1e}"
        report.check(f"greedy, {name}", margin < TIE, detail + (" (a tie)" if margin < TIE else ""))


def main():
    options = arguments()
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    options.model, options.work = options.model.resolve(), options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    import peer
    import torch

    torch.set_num_threads(options.threads)
    tokenizer = peer.load_tokenizer(options.model)
    rows, train_rows = choose_rows(tokenizer, options.rows, options.steps * BATCH)
    held_out_messages, held_out = choose_rows(tokenizer, options.held_out, HELD_OUT)
    write_rows(options.work / "rows.jsonl", rows)
    write_rows(options.work / "held-out.jsonl", held_out_messages)
    write_rows(options.work / "prompts.jsonl", [[{"role": "user", "content": prompt}] for prompt in PROMPTS])
    result = run_peer(options, settings_of(options), tokenizer, train_rows, held_out)
    if options.only_peer:
        return 0

    print("== swift")
    report = Report()
    check_greedy(options, report, tokenizer, "base", result["base_answers"], ("--model", options.model))
    if options.gguf:
        check_greedy(options, report, tokenizer, "gguf", result["base_answers"], ("--model", options.gguf.resolve()))
    checkpoint, eval_loss = check_training(options, report, result["history"])
    if checkpoint:
        adapted = check_adapter(options, report, tokenizer, held_out, checkpoint, eval_loss)
        check_merged(options, report, tokenizer, held_out, checkpoint, adapted)
        answers = [peer.greedy(adapted, tokenizer, prompt, NEW_TOKENS) for prompt in PROMPTS]
        check_greedy(options, report, tokenizer, "adapter", answers, ("--model", options.model, "--adapters", checkpoint))
    print(f"== {'all checks passed' if not report.failed else f'{report.failed} checks failed'}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
