"""The tables of gpu.py: what was measured against what is aimed at, and every setting that was tried."""

import statistics

GIB = 1 << 30
# Per kind of row: how many times the peer's speed, at most which part of its memory, at least which share of the device's measured peak.
AIMS = {
    "lora-0.6b": {"speed": 1.5, "memory": 0.6, "share": 0.5},
    "lora-4b": {"speed": 1.5, "memory": 0.6, "share": 0.5},
    "full-0.6b": {"speed": 1.3},
    "qlora-4b": {"speed": 1.3},
    "decode-0.6b-1": {"share": 0.7},
    "decode-4b-1": {"share": 0.7},
    "decode-0.6b-64": {"speed": 10},
    "decode-4b-64": {"speed": 10},
}


def weights(shape):
    """Elements of all matrices a token meets, the head's too."""
    hidden, heads, kv, size = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"]
    layer = 2 * hidden * heads * size + 2 * hidden * kv * size + 3 * hidden * shape["intermediate_size"]
    return shape["num_hidden_layers"] * layer + shape["vocab_size"] * hidden


def training_flops(shape, kind, batch, length):
    """Floating-point operations of a step. Frozen matrices cost two passes, trained ones three; causal attention reads half of the scores."""
    attention = 2 * length * shape["num_attention_heads"] * shape["head_dim"] * shape["num_hidden_layers"]
    return batch * length * ((6 if kind == "full" else 4) * weights(shape) + 3 * attention)


def decode_bytes(shape, batch, prompt, new):
    """Bytes that a step of decoding has to read: all weights in bf16 once, and each sequence's keys and values at half of the way."""
    rows = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * shape["head_dim"]
    return 2 * weights(shape) + 2 * batch * rows * (prompt + new / 2)


def median(measured, name):
    """Over the repeats that worked; None when none did."""
    values = [outcome[name] for outcome in measured or [] if outcome.get(name) is not None]
    return statistics.median(values) if values else None


def best(row):
    """The fastest peer setting that worked."""
    times = {setting: median(measured, "step_ms") for setting, measured in row.items() if setting != "swift"}
    times = {setting: value for setting, value in times.items() if value is not None}
    return min(times, key=times.get) if times else None


def label(row):
    if row["kind"] == "decode":
        return f"decode, {row['model']} shape, batch {row['batch']}"
    name = "full" if row["kind"] == "full" else "QLoRA NF4" if row.get("quant") else "LoRA"
    return f"{name}, {row['model']} shape, {row['batch']} x {row['length']}"


def number(value, form):
    return "-" if value is None else format(value, form)


def ratio(above, below):
    return None if above is None or not below else above / below


def ceiling(results, name):
    """The better of what the two programs reached."""
    return max((values[name] for values in results["ceilings"].values() if values.get(name)), default=None)


def verdict(aims, got):
    """What was aimed at and whether it was reached; a figure that is missing is not reached."""
    texts, missed = [], []
    for name, form, sign, better in [
        ("speed", "{:g} x", ">=", lambda value, aim: value >= aim),
        ("memory", "{:g} x memory", "<=", lambda value, aim: value <= aim),
        ("share", "{:.0%} of peak", ">=", lambda value, aim: value >= aim),
    ]:
        if name in aims:
            texts.append(f"{sign} {form.format(aims[name])}")
            if got[name] is None or not better(got[name], aims[name]):
                missed.append(name)
    return ", ".join(texts), "yes" if not missed else "no: " + ", ".join(missed)


def table(results, rows, shape_of, sizes_of):
    """Markdown of everything in `results`; `shape_of` a model's name and `sizes_of` a row say what was run."""
    matmul, copy = ceiling(results, "tflops"), ceiling(results, "copy_gbs")
    lines = ["Ceilings measured in the same run:", ""]
    for program, values in results["ceilings"].items():
        if "error" in values:
            lines.append(f"- {program}: {values['error']}")
        else:
            lines.append(f"- {program}: matmul of 8192 x 8192 x 8192 in bf16 {number(values.get('tflops'), '.0f')} TFLOP/s, "
                         f"copy {number(values.get('copy_gbs'), '.0f')} GB/s read and written")  # fmt: skip
    lines += ["", "Shares are of the better of these. The peer is its fastest setting.", ""]
    lines.append("| row | peer setting | peer ms/step | swift ms/step | speed ratio | peer GiB | swift GiB | memory ratio | swift rate | share of peak | aim | reached |")
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|---|")
    profiles, details = [], ["", "Every measurement:", "", "| row | program | ms/step | tokens/s | GiB | GiB on the device | first loss | last loss | note |", "|---|---|---|---|---|---|---|---|---|"]
    for key, row in rows.items():
        measured = results["rows"].get(key)
        if not measured:
            continue
        shape, (batch, length, new) = shape_of(row["model"]), sizes_of(row)
        peer, ours, setting = None, measured.get("swift"), best(measured)
        peer = measured.get(setting)
        times = median(peer, "step_ms"), median(ours, "step_ms")
        memory = median(peer, "memory"), median(ours, "memory")
        if new:
            step = median(ours, "decode_ms")
            rate = step and decode_bytes(shape, batch, length, new) / step / 1e6
            share, unit = ratio(rate, copy), "GB/s"
        else:
            rate = times[1] and training_flops(shape, row["kind"], batch, length) / times[1] / 1e9
            share, unit = ratio(rate, matmul), "TFLOP/s"
        got = {"speed": ratio(*times), "memory": ratio(memory[1], memory[0]), "share": share}
        aim, reached = verdict(AIMS[key], got)
        cells = [label(row), setting or "-", number(times[0], ".2f"), number(times[1], ".2f"), number(got["speed"], ".2f")]
        cells += [number(value and value / GIB, ".1f") for value in memory]
        cells += [number(got["memory"], ".2f"), number(rate and f"{rate:.0f} {unit}", ""), number(share, ".0%"), aim, reached]
        lines.append("| " + " | ".join(cells) + " |")
        for program, outcomes in measured.items():
            details.append(detail(row, program, outcomes, batch, length, peer))
        profiles += profile(label(row), ours or [], matmul, copy)
    return "\n".join(lines + details + profiles) + "\n"


def profile(name, outcomes, matmul, copy, most=25):
    """Where swift's last profiled step went: its longest kernels."""
    rows = next((outcome["profile"] for outcome in reversed(outcomes) if outcome.get("profile")), None)
    if not rows:
        return []
    total = sum(row["ms"] for row in rows)
    lines = ["", f"{name}: swift's kernels, {total:.3f} ms a step (shorter ones than the {most} longest are left out)", ""]
    lines += ["| kernel | calls | ms | of the time | GB/s | of peak | TFLOP/s | of peak |", "|---|---|---|---|---|---|---|---|"]
    for row in [row for row in rows if row["ms"] > 0][:most]:
        gigabytes, tflops = row["bytes"] / row["ms"] / 1e6, row["flops"] / row["ms"] / 1e9
        shares = [number(ratio(value or None, peak), ".0%") for value, peak in ((gigabytes, copy), (tflops, matmul))]
        cells = [row["name"], f"{row['calls']:.0f}", f"{row['ms']:.3f}", f"{row['ms'] / total:.1%}", f"{gigabytes:.0f}", shares[0]]
        lines.append("| " + " | ".join([*cells, f"{tflops:.0f}", shares[1]]) + " |")
    return lines


def detail(row, program, outcomes, batch, length, peer):
    """A line of the second table."""
    step, notes = median(outcomes, "step_ms"), sorted({outcome[name] for outcome in outcomes for name in ("error", "warning") if name in outcome})
    if row["kind"] == "decode":
        tokens = batch
        for name, text in [("prefill_ms", "prompt {:.1f} ms"), ("decode_ms", "a token {:.2f} ms")]:
            value = median(outcomes, name)
            notes += [text.format(value)] if value is not None else []
        theirs = next((outcome["tokens"] for outcome in peer or [] if "tokens" in outcome), None)
        mine = next((outcome["tokens"] for outcome in outcomes if "tokens" in outcome), None)
        if program == "swift" and theirs and mine:
            equal = next((i for i, pair in enumerate(zip(theirs, mine)) if pair[0] != pair[1]), min(len(theirs), len(mine)))
            notes.append(f"first {equal} of {len(mine)} tokens as the peer's")
    else:
        tokens = batch * length
        planned = median(outcomes, "planned")
        notes += [f"planned {planned / GIB:.1f} GiB"] if planned else []
    cells = [label(row), program, number(step, ".2f"), number(step and 1000 * tokens / step, ".0f")]
    cells += [number(value and value / GIB, ".1f") for value in (median(outcomes, "memory"), median(outcomes, "device_memory"))]
    cells += [number(median(outcomes, name), ".3f") for name in ("first_loss", "last_loss")]
    note = "; ".join(notes).replace("|", "/").replace("\n", " ")
    count = sum("error" not in outcome for outcome in outcomes)
    return "| " + " | ".join([*cells, f"{count} run{'s' if count != 1 else ''}" + (f"; {note}" if note else "")]) + " |"
