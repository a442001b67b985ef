//! Runs of the binary on a GPU. They say `skipped` unless `SWIFT_TEST_DEVICE` names one (`cuda:0`).

#[allow(dead_code, reason = "shared with the runs on the CPU")]
mod fixture;

use fixture::Place;
use serde_json::Value;

/// The GPU to run on.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn device() -> Option<String> {
    let name = std::env::var("SWIFT_TEST_DEVICE").ok().filter(|name| name.starts_with("cuda"));
    if name.is_none() {
        eprintln!("skipped: SWIFT_TEST_DEVICE names no GPU");
    }
    name
}

/// Runs `swift` where it can see the GPUs; gives what it said on stderr.
fn swift(place: &Place, arguments: &str) -> String {
    let output = place.command(arguments).env_remove("CUDA_VISIBLE_DEVICES").output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "swift {arguments}\n{}\nstdout:\n{out}\nstderr:\n{err}", output.status);
    err
}

fn responses(place: &Place, name: &str) -> Vec<Value> {
    let row = |line| serde_json::from_str::<Value>(line).expect("JSON")["response"].clone();
    place.read(name).lines().map(row).collect()
}

/// The checkpoint is float32, so it is computed in float32: the GPU sums in another order and nothing else differs.
#[test]
fn the_curve_and_the_answers_of_the_cpu() {
    let Some(device) = device() else { return };
    let place = Place::new();
    let more = "--lora_dropout 0 --val_dataset rows.jsonl#8 --eval_steps 3";
    swift(&place, &place.train("cpu", &format!("{more} --device cpu")));
    let said = swift(&place, &place.train("gpu", &format!("{more} --device {device}")));
    assert!(said.contains("float32") && !said.contains("device  CPU"), "{said}");
    for key in ["loss", "eval_loss", "grad_norm"] {
        let (cpu, gpu) = (place.logged("cpu", key), place.logged("gpu", key));
        assert_eq!(cpu.len(), gpu.len(), "{key}");
        for (i, (a, b)) in cpu.iter().zip(&gpu).enumerate() {
            assert!((a - b).abs() <= 1e-3 * a.abs(), "{key} {i}: CPU {a}, GPU {b}; CPU {cpu:?}, GPU {gpu:?}");
        }
    }

    let infer = "--val_dataset rows.jsonl#4 --temperature 0 --max_new_tokens 8 --stream false";
    swift(&place, "merge-lora --model model --adapters gpu/checkpoint-6 --output_dir merged");
    let apart = "--model model --adapters gpu/checkpoint-6";
    swift(&place, &format!("infer {apart} {infer} --device cpu --result_path cpu.jsonl"));
    swift(&place, &format!("infer {apart} {infer} --device {device} --result_path gpu.jsonl"));
    swift(&place, &format!("infer --model merged {infer} --device {device} --result_path merged.jsonl"));
    swift(&place, &format!("infer {apart} {infer} --max_batch_size 4 --device {device} --result_path batched.jsonl"));
    assert_eq!(responses(&place, "cpu.jsonl").len(), 4);
    for name in ["gpu.jsonl", "merged.jsonl", "batched.jsonl"] {
        assert_eq!(responses(&place, "cpu.jsonl"), responses(&place, name), "{name}");
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes() {
    let Some(device) = device() else { return };
    for more in ["", "--bf16 true", "--tuner_type full --bf16 true --learning_rate 1e-3"] {
        let place = Place::new();
        let train = place.train("run", &format!("--device {device} {more}"));
        swift(&place, &train);
        let name = if more.contains("full") { "model.safetensors" } else { "adapter_model.safetensors" };
        let file = format!("run/checkpoint-6/{name}");
        let once = place.bytes(&file);
        swift(&place, &format!("{train} --resume_from_checkpoint run/checkpoint-4"));
        assert!(place.bytes(&file) == once, "`{more}`: the resumed run differs");
    }
}

#[test]
fn every_way_to_train_learns_and_says_how_it_ran() {
    let Some(device) = device() else { return };
    let place = Place::new();
    for (run, more, wanted) in [
        ("bf16", "--lora_dropout 0 --bf16 true", "bfloat16"),
        ("full", "--tuner_type full --bf16 true", "bfloat16"),
        ("nf4", "--lora_dropout 0 --bf16 true --quant_method bnb --quant_bits 4", "NF4"),
        (
            "again",
            "--lora_dropout 0 --bf16 true --gradient_checkpointing true --packing true --max_length 128",
            "bfloat16",
        ),
    ] {
        swift(&place, &place.train(run, &format!("--device {device} {more}")));
        let losses = place.logged(run, "loss");
        assert!(losses.iter().all(|loss| loss.is_finite()) && losses.last() < losses.first(), "{run}: {losses:?}");
        let manifest: Value = serde_json::from_str(&place.read(&format!("{run}/run.json"))).expect("JSON");
        let said = manifest["device"].as_str().unwrap_or_default();
        assert!(said.contains(wanted) && !said.contains("CPU"), "{run}: {said}");
    }
    // A launcher's world of one makes its one rank.
    let mut command = place.command(&place.train("rank", &format!("--bf16 true --device {device}")));
    command.env_remove("CUDA_VISIBLE_DEVICES");
    command.env("RANK", "0").env("WORLD_SIZE", "1").env("LOCAL_RANK", "0").env("MASTER_ADDR", "127.0.0.1");
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
