"""What the peer checks share: the rows and their tokens, the model, one plain training loop with transformers + peft.

It knows nothing of `swift`'s insides: `swift` is a binary with a command line and files.

Which tokens train (both programs must agree): a row is rendered with the checkpoint's own chat template (including the
system turn which that template may insert), tokenized as one text without adding tokens, and the labels are the tokens
of every assistant turn's content plus the end-of-turn token that follows it (`<|im_end|>` for SmolLM2). Role headers, other turns, and the
line break after the end-of-turn token are read but not trained.

Loss: the sum of the cross-entropies of the labelled tokens of a batch, divided by their number.
"""

import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IGNORED = -100


def read_rows(path, limit=None):
    """The `messages` of each line of a jsonl file, at most `limit` of them."""
    with open(path, encoding="utf8") as lines:
        rows = [json.loads(line)["messages"] for line in lines if line.strip()]
    return rows[:limit]


def encode(tokenizer, messages):
    """(input ids, labels) of one conversation. The prefix of the template's text before an assistant turn's content is
    found by rendering the earlier turns with the generation prompt."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = len(tokenizer.apply_chat_template(messages[:index], tokenize=False, add_generation_prompt=True))
        end = start + len(message["content"])
        if text[start:end] != message["content"]:
            raise SystemExit(f"the chat template changes the assistant's text: {text[start:end]!r} for {message['content']!r}")
        if not text.startswith(tokenizer.eos_token, end):
            raise SystemExit(f"the chat template does not end an assistant turn with {tokenizer.eos_token!r}")
        spans.append((start, end + len(tokenizer.eos_token)))
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(start <= left < end for start, end in spans) else IGNORED
        for token, (left, _) in zip(encoding["input_ids"], encoding["offset_mapping"])
    ]
    return encoding["input_ids"], labels


def collate(rows, padding):
    """Tensors of a batch: rows padded on the right to the longest."""
    width = max(len(ids) for ids, _ in rows)
    fill = lambda values, value: values + [value] * (width - len(values))
    return {
        "input_ids": torch.tensor([fill(ids, padding) for ids, _ in rows]),
        "labels": torch.tensor([fill(labels, IGNORED) for _, labels in rows]),
        "attention_mask": torch.tensor([fill([1] * len(ids), 0) for ids, _ in rows]),
    }


def load_tokenizer(directory):
    return AutoTokenizer.from_pretrained(directory)


def load_base(directory):
    """The checkpoint in f32, as a fresh model without any adapter."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def load_adapter(model_directory, adapter_directory, trainable=False):
    return PeftModel.from_pretrained(load_base(model_directory), adapter_directory, is_trainable=trainable)


def save_initial_adapter(model_directory, adapter_directory, rank, alpha, seed=0):
    """A LoRA on every linear layer but the head, A random as in PEFT and B small and random (not zero), so that all
    gradients of A are non-zero from the first step and the logits differ from the base's."""
    torch.manual_seed(seed)
    model = get_peft_model(
        load_base(model_directory),
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    model.save_pretrained(adapter_directory)


def summed_loss(model, batch):
    """(sum of the labelled tokens' cross-entropies, their number)."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, int((labels != IGNORED).sum())


def train(model, batches, learning_rate, weight_decay, betas, max_norm):
    """AdamW with a constant rate. Returns per step {loss, grad_norm (before clipping), tokens, labelled}."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=betas, eps=1e-8, weight_decay=weight_decay)
    history = []
    for batch in batches:
        total, labelled = summed_loss(model, batch)
        loss = total / labelled
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        tokens = int(batch["attention_mask"].sum())
        history.append({"loss": loss.item(), "grad_norm": float(norm), "tokens": tokens, "labelled": labelled})
        print(f"  peer step {len(history):3}  loss {loss.item():.6f}  grad_norm {float(norm):.5f}", flush=True)
    return history


@torch.no_grad()
def evaluate(model, rows, padding):
    """Held-out loss: {per_token: over all labelled tokens, per_row: mean of the rows' means}."""
    model.eval()
    sums = [summed_loss(model, collate([row], padding)) for row in rows]
    return {
        "per_token": float(sum(loss for loss, _ in sums)) / sum(count for _, count in sums),
        "per_row": float(sum(loss / count for loss, count in sums)) / len(sums),
        "rows": len(rows),
        "labelled": sum(count for _, count in sums),
    }


@torch.no_grad()
def logits_of(model, rows):
    """Logits [tokens, vocabulary] of each row, unpadded."""
    model.eval()
    return [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids, _ in rows]


@torch.no_grad()
def greedy(model, tokenizer, prompt, new_tokens):
    """Greedy answer to one user message: {prompt, prompt_ids, new_ids, text, margins}; margins are the differences of the
    two largest logits where each new token was chosen. The text is without special tokens."""
    model.eval()
    text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt_ids])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    top = model(input_ids=out, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].topk(2).values
    new_ids = out[0, len(prompt_ids) :].tolist()
    return {
        "prompt": prompt,
        "prompt_ids": prompt_ids,
        "new_ids": new_ids,
        "text": tokenizer.decode(new_ids, skip_special_tokens=True),
        "margins": (top[:, 0] - top[:, 1]).tolist(),
    }
