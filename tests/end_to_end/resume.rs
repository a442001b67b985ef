//! Killed, interrupted and resumed runs end in the same bytes as one that ran through.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::Place;

const RESULT: &str = "checkpoint-6/adapter_model.safetensors";

#[test]
fn resume_is_exact_to_the_bit() {
    let place = Place::new();
    for (name, more) in [("lora", ""), ("packed", "--packing true --max_length 96"), ("full", "--tuner_type full")] {
        let (whole, parts) = (format!("{name}-whole"), format!("{name}-parts"));
        place.swift(&place.train(&whole, more)).good();
        place.swift(&place.train(&parts, more)).good();
        // As if it had stopped after its second checkpoint.
        std::fs::remove_dir_all(place.path(&format!("{parts}/checkpoint-6"))).expect("removed");
        let resume = format!("{more} --resume_from_checkpoint {parts}/checkpoint-4");
        place.swift(&place.train(&parts, &resume)).good();
        let result = if name == "full" { "checkpoint-6/model.safetensors" } else { RESULT };
        assert_eq!(place.bytes(&format!("{whole}/{result}")), place.bytes(&format!("{parts}/{result}")), "{name}");
        assert_eq!(place.logged(&whole, "loss"), place.logged(&parts, "loss"), "{name}: the log has each step once");
    }
}

#[test]
fn killed_at_any_moment_and_resumed() {
    let place = Place::new();
    let more = "--max_steps 12 --save_steps 1 --save_total_limit 3";
    place.swift(&place.train("whole", more)).good();
    let started = Instant::now();
    place.swift(&place.train("timed", more)).good();
    let length = started.elapsed();
    // Moments spread over the run, the same in every test.
    for (round, part) in [0.35, 0.55, 0.7, 0.85, 0.95].into_iter().enumerate() {
        let run = format!("killed-{round}");
        let mut child = place
            .command(&place.train(&run, more))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(length.mul_f64(part));
        let _ = child.kill();
        let _ = child.wait();
        let any = std::fs::read_dir(place.path(&run)).map_or(0, |entries| {
            entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("checkpoint-")).count()
        });
        let resume = if any > 0 { format!("--resume_from_checkpoint {run}") } else { String::new() };
        place.swift(&place.train(&run, &format!("{more} {resume}"))).good();
        let result = "checkpoint-12/adapter_model.safetensors";
        assert_eq!(
            place.bytes(&format!("whole/{result}")),
            place.bytes(&format!("{run}/{result}")),
            "killed at {part} of the run"
        );
        let left = std::fs::read_dir(place.path(&run)).expect("a run").flatten();
        assert!(
            left.into_iter().all(|e| !e.file_name().to_string_lossy().starts_with("tmp-")),
            "no half-written checkpoint stays"
        );
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let place = Place::new();
    let more = "--max_steps 2000 --save_steps 5000 --logging_steps 1";
    let mut child = place
        .command(&place.train("run", more))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let log = place.path("run/logging.jsonl");
    let begun = Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |t| t.lines().count()) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "training starts");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let status = child.wait().expect("it ends");
    assert!(!status.success(), "an interrupted job did not do what was asked");
    let output = child.stderr.take().map(std::io::read_to_string).expect("stderr").expect("text");
    assert!(output.contains("--resume_from_checkpoint"), "{output}");
    let saved = std::fs::read_dir(place.path("run")).expect("a run").flatten();
    let saved: Vec<_> = saved.filter(|e| e.file_name().to_string_lossy().starts_with("checkpoint-")).collect();
    assert_eq!(saved.len(), 1);
    assert!(saved[0].path().join("adapter_model.safetensors").is_file());
}
