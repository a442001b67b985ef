//! Devices and ranks as the command line names them. No GPU is used here, whatever the machine has: what it says about
//! GPUs differs between machines, so only the rest of a message is compared.

use serde_json::Value;

use crate::fixture::Place;

/// Drivers that any machine can have: a library of a few lines, where there is a C compiler. What asks it gets so far and no
/// further, so that the machine's own GPUs do not matter.
#[test]
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn a_driver_that_is_no_use_is_named() {
    let place = Place::new();
    let version = |n: u32| format!("int cuDriverGetVersion(int *v) {{ *v = {n}; return 0; }}\n");
    for (name, source, message, hint) in [
        (
            "old",
            version(11_040) + "int cuInit(unsigned f) { return 0; }\n",
            "the NVIDIA driver supports CUDA 11.4, but 12.0 or newer is needed",
            "update the NVIDIA driver, or run with `--device cpu`",
        ),
        (
            "blind",
            version(13_000) + "int cuInit(unsigned f) { return 100; }\nint cuDeviceGetCount(int *n) { return 100; }\n",
            "the NVIDIA driver sees no GPU",
            "see `nvidia-smi`; is CUDA_VISIBLE_DEVICES set to something empty?",
        ),
    ] {
        let folder = place.path(name);
        std::fs::create_dir(&folder).expect("a folder");
        place.write(&format!("{name}/driver.c"), &source);
        // The loader is asked for both names.
        for library in ["libcuda.so", "libcuda.so.1"] {
            let built = std::process::Command::new("cc")
                .args(["-shared", "-fPIC", "-o", library, "driver.c"])
                .current_dir(&folder)
                .output();
            match built {
                Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => {
                    eprintln!("skipped: no C compiler ({error})");
                    return;
                }
            }
        }
        let run = |arguments: &str| {
            let output = place.command(arguments).env("LD_LIBRARY_PATH", &folder).output().expect("the binary starts");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        for device in ["cuda", "cuda:3"] {
            let (code, text) = run(&place.train("asked", &format!("--device {device}")));
            assert_eq!(
                (code, text),
                (Some(1), format!("error: --device {device}: {message}\nhint: {hint}\n")),
                "{name}"
            );
            assert!(!place.path("asked").exists(), "{name}");
        }
        // Unasked, it is the CPU, and the reason is said.
        let (code, text) = run(&place.train(&format!("{name}-run"), "--max_steps 1"));
        assert_eq!(code, Some(0), "{name}: {text}");
        assert!(text.contains(&format!("device  CPU, float32 ({message})")), "{name}: {text}");
    }
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error_where_it_was_asked_for() {
    let place = Place::new();
    for (more, start) in [
        ("--device cuda", "error: --device cuda: "),
        ("--device_map cuda:1", "error: --device cuda:1: "),
        ("--bf16 true", "error: --bf16 true needs a GPU, and none is used: "),
        ("--quant_method bnb --quant_bits 4", "error: --quant_method bnb needs a GPU, and none is used: "),
    ] {
        let text = place.complaint(&place.train("out", more), 1);
        assert!(text.starts_with(start) && text.contains("\nhint: "), "{more}: {text}");
        assert!(!place.path("out").exists(), "{more}");
    }
    let text = place.complaint("infer --model model --device cuda", 1);
    assert!(text.starts_with("error: --device cuda: "), "{text}");
    let text = place.complaint(&place.train("out", "--bf16 true --device cpu"), 1);
    let wanted = "error: --bf16 true needs a GPU, and none is used: `--device cpu` was given\n\
                  hint: leave it out: the CPU uses weights as stored and computes in float32\n";
    assert_eq!(text, wanted);
}

#[test]
fn a_run_says_where_it_ran() {
    let place = Place::new();
    let said = place.swift(&place.train("auto", "--max_steps 1")).good();
    assert!(said.err.contains("device  CPU, float32"), "{}", said.err);
    let run: Value = serde_json::from_str(&place.read("auto/run.json")).expect("JSON");
    assert_eq!((&run["device"], &run["world_size"]), (&"CPU, float32".into(), &1.into()));
    place.swift(&place.train("cpu", "--max_steps 1 --device cpu --device_map auto --ddp_backend nccl")).good();
    let weights = |run: &str| place.bytes(&format!("{run}/checkpoint-1/adapter_model.safetensors"));
    assert!(weights("auto") == weights("cpu"));
    let said = place.swift("infer --model model --val_dataset rows.jsonl#1 --max_new_tokens 2 --result_path a.jsonl");
    assert!(said.good().err.contains("device  CPU, float32"));
}

/// One process of a launcher's world of one is any other process; several need GPUs.
#[test]
fn ranks_come_from_the_launcher() {
    let place = Place::new();
    let launched = |rank: &str, size: &str, arguments: &str| {
        let mut command = place.command(arguments);
        command.env("RANK", rank).env("WORLD_SIZE", size).env("LOCAL_RANK", rank).env("MASTER_ADDR", "127.0.0.1");
        let output = command.output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = launched("0", "1", &place.train("one", "--max_steps 1"));
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = launched("1", "2", &place.train("two", "--device cpu"));
    assert_eq!(code, Some(1), "{text}");
    let wanted = "error: rank 1: training on 2 ranks needs a GPU, and none is used: `--device cpu` was given\n\
                  hint: start one process, without torchrun, mpirun or srun: it uses all CPU threads\n";
    assert_eq!(text, wanted);
    assert!(!place.path("two").exists());
    let (code, text) = launched("2", "2", &place.train("two", ""));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.starts_with("error: the environment variable RANK is `2`, not below 2"), "{text}");
    let (code, text) = launched("1", "2", "infer --model model --val_dataset rows.jsonl");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.starts_with("error: `swift infer` is one process, and this is rank 1 of 2\nhint: "), "{text}");
}
