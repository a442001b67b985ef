//! Sampling on the GPU against a plain reference in f64, and the step of a decoding loop.

#![allow(clippy::print_stdout, reason = "measurements are printed")]

mod common;

use std::time::Instant;

use common::{device, random, round};
use swift_kernels::cuda::{self, Advance, Buffer, Device, Dtype, SampleSettings};

const PLAIN: SampleSettings =
    SampleSettings { temperature: 1.0, top_p: 1.0, min_p: 0.0, top_k: 0, seed: 0, position: 0 };

/// What is drawn from a row, and how near the draw was to another token, as a share of the sum.
struct Drawn {
    token: usize,
    margin: f64,
    /// What a token at the edge of top-p weighs when a rounding error decides whether it is kept.
    doubt: f64,
}

fn reference(logits: &[f32], settings: &SampleSettings) -> Drawn {
    // Negative zero equals zero.
    let scaled: Vec<f32> = logits.iter().map(|x| x / settings.temperature + 0.0).collect();
    let greatest = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if settings.temperature == 0.0 {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let token = logits.iter().position(|x| *x == most).unwrap();
        return Drawn { token, margin: 1.0, doubt: 0.0 };
    }
    let p: Vec<f64> = scaled.iter().map(|x| f64::from(x - greatest).exp()).collect();
    let mut kept: Vec<usize> = (0..logits.len()).collect();
    let mut doubt = 0.0;
    if settings.top_k > 0 && (settings.top_k as usize) < logits.len() {
        let mut sorted = scaled.clone();
        let (_, kth, _) = sorted.select_nth_unstable_by(settings.top_k as usize - 1, |a, b| b.total_cmp(a));
        let kth = *kth;
        kept.retain(|i| scaled[*i] >= kth);
    }
    if settings.top_p < 1.0 {
        // Least likely first; of equal ones, the later first, so that the earlier is kept.
        let mut order = kept.clone();
        order.sort_by(|&a, &b| scaled[a].total_cmp(&scaled[b]).then(b.cmp(&a)));
        let total: f64 = order.iter().map(|i| p[*i]).sum();
        let cut = (1.0 - f64::from(settings.top_p)) * total;
        let (mut below, mut gone) = (0.0, 0);
        for &i in &order[..order.len() - 1] {
            below += p[i];
            if (below - cut).abs() < 1e-6 * total {
                doubt = f64::max(doubt, p[i]);
            }
            if below > cut {
                break;
            }
            gone += 1;
        }
        kept = order[gone..].to_vec();
        kept.sort_unstable();
    }
    if settings.min_p > 0.0 {
        kept.retain(|i| scaled[*i] == greatest || f64::from(scaled[*i] - greatest).exp() >= f64::from(settings.min_p));
    }
    let total: f64 = kept.iter().map(|i| p[*i]).sum();
    let target = settings.uniform() * total;
    let mut sum = 0.0;
    for i in &kept {
        let before = sum;
        sum += p[*i];
        if sum > target {
            let margin = (target - before).min(sum - target) / total;
            return Drawn { token: *i, margin, doubt: doubt / total };
        }
    }
    Drawn { token: kept[kept.len() - 1], margin: 0.0, doubt: doubt / total }
}

/// Tokens and status of rows on the device.
fn run(
    device: &Device,
    logits: &Buffer,
    dtype: Dtype,
    vocabulary: usize,
    settings: &[SampleSettings],
) -> (Vec<u32>, Vec<u32>) {
    let rows = settings.len();
    let bytes: Vec<u8> = settings.iter().flat_map(|s| s.to_bytes()).collect();
    let on = device.allocate(bytes.len()).unwrap();
    device.upload(&bytes, on.at(0, bytes.len(), Dtype::U8)).unwrap();
    let (tokens, status) = (device.from_u32(&vec![u32::MAX; rows]).unwrap(), device.from_u32(&vec![7; rows]).unwrap());
    let (tokens, status) = (tokens.at(0, rows, Dtype::U32), status.at(0, rows, Dtype::U32));
    let logits = logits.at(0, rows * vocabulary, dtype);
    cuda::sample(device, logits, rows, vocabulary, on.at(0, bytes.len(), Dtype::U8), tokens, status).unwrap();
    (integers(device, tokens), integers(device, status))
}

fn integers(device: &Device, tensor: cuda::Tensor) -> Vec<u32> {
    let mut bytes = vec![0u8; tensor.bytes()];
    device.download(tensor, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Logits about as a language model's: most far below a few.
fn language(seed: u64, vocabulary: usize, rows: usize) -> Vec<f32> {
    let mut logits = random(seed, rows * vocabulary, 6.0);
    for (i, extra) in random(seed + 1, rows * 40, 12.0).iter().enumerate() {
        let at = (i / 40) * vocabulary + i * 7919 % vocabulary;
        logits[at] += extra.abs();
    }
    logits
}

/// Compares all rows with the reference; says how many were too near to another token to tell.
fn compare(
    device: &Device,
    what: &str,
    logits: &[f32],
    dtype: Dtype,
    vocabulary: usize,
    settings: &[SampleSettings],
) -> usize {
    let logits = round(logits.to_vec(), dtype);
    let on = device.from_f32(&logits, dtype).unwrap();
    let (tokens, status) = run(device, &on, dtype, vocabulary, settings);
    assert!(status.iter().all(|s| *s == 0), "{what}: status {status:?}");
    let mut near = 0;
    for (row, settings) in settings.iter().enumerate() {
        let logits = &logits[row * vocabulary..][..vocabulary];
        let want = reference(logits, settings);
        if tokens[row] as usize != want.token {
            assert!(
                want.margin < 1e-6 + 2.0 * want.doubt,
                "{what} {dtype:?} row {row}: token {} (logit {:?}), not {} (logit {}), margin {:.2e}, doubt {:.2e}, {settings:?}",
                tokens[row],
                logits.get(tokens[row] as usize),
                want.token,
                logits[want.token],
                want.margin,
                want.doubt,
            );
            near += 1;
        }
    }
    near
}

fn kinds() -> Vec<SampleSettings> {
    vec![
        PLAIN,
        SampleSettings { temperature: 0.0, ..PLAIN },
        SampleSettings { temperature: 0.6, top_k: 20, top_p: 0.95, ..PLAIN },
        SampleSettings { top_k: 1, ..PLAIN },
        SampleSettings { top_k: 50, ..PLAIN },
        SampleSettings { top_p: 0.9, ..PLAIN },
        SampleSettings { top_p: 0.0, ..PLAIN },
        SampleSettings { top_p: 0.5, temperature: 1.5, ..PLAIN },
        SampleSettings { min_p: 0.05, ..PLAIN },
        SampleSettings { temperature: 0.8, top_k: 1000, top_p: 0.99, min_p: 0.01, ..PLAIN },
        SampleSettings { temperature: 3.0, ..PLAIN },
        SampleSettings { temperature: 0.01, ..PLAIN },
        SampleSettings { top_k: u32::MAX, top_p: 0.999, ..PLAIN },
    ]
}

#[test]
fn draws_equal_the_reference() {
    let Some(device) = device() else { return };
    let (mut all, mut near) = (0, 0);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for vocabulary in [1, 2, 7, 100, 1000, 8191, 8193, 32_000, 151_936] {
            let settings: Vec<SampleSettings> = kinds()
                .iter()
                .enumerate()
                .flat_map(|(i, s)| (0..3).map(move |j| SampleSettings { seed: 5 + i as u64, position: j, ..*s }))
                .collect();
            let logits = language(vocabulary as u64, vocabulary, settings.len());
            near += compare(&device, &format!("vocabulary {vocabulary}"), &logits, dtype, vocabulary, &settings);
            all += settings.len();
        }
    }
    assert!(near * 100 <= all, "{near} of {all} draws differ, if by little");
}

#[test]
fn the_widest_vocabularies() {
    let Some(device) = device() else { return };
    for vocabulary in [262_144, cuda::WIDEST_VOCABULARY] {
        let settings: Vec<SampleSettings> =
            kinds().iter().map(|s| SampleSettings { seed: 1, position: 9, ..*s }).collect();
        let logits = language(3, vocabulary, settings.len());
        compare(&device, "wide", &logits, Dtype::Bf16, vocabulary, &settings);
    }
}

#[test]
fn equal_logits_are_cut_from_the_end() {
    let Some(device) = device() else { return };
    // Eight levels only, so every threshold falls on many equal tokens.
    for vocabulary in [64, 5000, 40_000] {
        let settings: Vec<SampleSettings> = (0..48)
            .map(|i| SampleSettings {
                top_p: [1.0, 0.3, 0.51, 0.77][i % 4],
                top_k: [0, 3, 17, 1001][i / 4 % 4],
                seed: i as u64,
                ..PLAIN
            })
            .collect();
        let logits: Vec<f32> =
            random(vocabulary as u64, settings.len() * vocabulary, 4.0).iter().map(|x| x.floor()).collect();
        for dtype in [Dtype::F32, Dtype::Bf16] {
            compare(&device, "levels", &logits, dtype, vocabulary, &settings);
        }
    }
    // All equal: a quarter of the tokens is the first quarter.
    let vocabulary = 4000;
    let settings: Vec<SampleSettings> =
        (0..64).map(|i| SampleSettings { top_p: 0.2501, position: i, ..PLAIN }).collect();
    let on = device.from_f32(&vec![1.5; 64 * vocabulary], Dtype::F32).unwrap();
    let (tokens, _) = run(&device, &on, Dtype::F32, vocabulary, &settings);
    assert!(tokens.iter().all(|t| *t <= 1001), "{tokens:?}");
    for (token, settings) in tokens.iter().zip(&settings) {
        let want = settings.uniform() * 1001.0;
        assert!((f64::from(*token) - want.floor()).abs() <= 1.0, "{token} for {want}");
    }
}

#[test]
fn the_greatest_is_the_first_of_several() {
    let Some(device) = device() else { return };
    for vocabulary in [3, 151_936] {
        let mut logits = random(1, 4 * vocabulary, 1.0);
        let places = [[0, 1], [1, 2], [vocabulary / 2, vocabulary - 1], [vocabulary - 2, vocabulary - 1]];
        for (row, place) in places.iter().enumerate() {
            place.iter().for_each(|i| logits[row * vocabulary + i] = 5.0);
        }
        let on = device.from_f32(&logits, Dtype::F32).unwrap();
        let greedy = [SampleSettings { temperature: 0.0, ..PLAIN }; 4];
        let (tokens, _) = run(&device, &on, Dtype::F32, vocabulary, &greedy);
        let want: Vec<u32> = places.iter().map(|place| place[0] as u32).collect();
        assert_eq!(tokens, want, "vocabulary {vocabulary}");
    }
}

#[test]
fn rows_that_are_not_finite_are_told() {
    let Some(device) = device() else { return };
    let vocabulary = 20_000;
    let mut logits = language(4, vocabulary, 6);
    logits[777] = f32::NAN;
    logits[vocabulary + 19_999] = f32::INFINITY;
    logits[2 * vocabulary] = f32::NEG_INFINITY;
    logits[3 * vocabulary..4 * vocabulary].fill(f32::NAN);
    let settings: Vec<SampleSettings> =
        (0..6).map(|i| SampleSettings { temperature: (i % 2) as f32, position: i, ..PLAIN }).collect();
    let on = device.from_f32(&logits, Dtype::F32).unwrap();
    let (tokens, status) = run(&device, &on, Dtype::F32, vocabulary, &settings);
    assert_eq!(status, [1, 1, 1, 1, 0, 0]);
    for (row, token) in tokens.iter().enumerate().take(4) {
        let finite = |i: usize| Some(logits[row * vocabulary + i]).filter(|x| x.is_finite()).unwrap_or(f32::MIN);
        let want = (0..vocabulary).rev().max_by(|a, b| finite(*a).total_cmp(&finite(*b))).unwrap();
        assert_eq!(*token as usize, want, "row {row}");
    }
}

#[test]
fn draws_follow_the_probabilities() {
    let Some(device) = device() else { return };
    let p = [0.1f32, 0.4, 0.05, 0.25, 0.2];
    let logits: Vec<f32> = p.iter().map(|p| p.ln()).collect();
    let rows = 20_000;
    let on = device.from_f32(&logits.repeat(rows), Dtype::F32).unwrap();
    let settings: Vec<SampleSettings> =
        (0..rows).map(|i| SampleSettings { seed: (i % 7) as u64, position: (i / 7) as u64, ..PLAIN }).collect();
    let (tokens, _) = run(&device, &on, Dtype::F32, p.len(), &settings);
    for (i, p) in p.iter().enumerate() {
        let share = tokens.iter().filter(|t| **t as usize == i).count() as f32 / rows as f32;
        // Five deviations.
        assert!((share - p).abs() < 5.0 * (p * (1.0 - p) / rows as f32).sqrt(), "token {i}: {share} for {p}");
    }
}

#[test]
fn the_same_input_gives_the_same_tokens() {
    let Some(device) = device() else { return };
    let vocabulary = 151_936;
    let settings: Vec<SampleSettings> =
        (0..64).map(|i| SampleSettings { top_p: 0.97, temperature: 1.2, position: i, ..PLAIN }).collect();
    let on = device.from_f32(&language(8, vocabulary, 64), Dtype::Bf16).unwrap();
    let first = run(&device, &on, Dtype::Bf16, vocabulary, &settings);
    for _ in 0..5 {
        assert_eq!(run(&device, &on, Dtype::Bf16, vocabulary, &settings), first);
    }
}

#[test]
fn a_loop_in_a_graph_moves_on() {
    let Some(device) = device() else { return };
    let (rows, vocabulary, steps) = (3, 500, 4);
    let logits = device.from_f32(&language(9, vocabulary, rows), Dtype::F32).unwrap();
    let settings: Vec<SampleSettings> = (0..rows).map(|i| SampleSettings { seed: i as u64, ..PLAIN }).collect();
    let bytes: Vec<u8> = settings.iter().flat_map(|s| s.to_bytes()).collect();
    let on = device.allocate(bytes.len()).unwrap();
    let on = |n| on.at(0, n, Dtype::U8);
    device.upload(&bytes, on(bytes.len())).unwrap();
    let buffers: Vec<Buffer> = [vec![0; rows], vec![0; rows], vec![0; rows], vec![10, 20, 30], vec![11, 21, 31]]
        .iter()
        .map(|values| device.from_u32(values).unwrap())
        .collect();
    let (history, step) = (device.from_u32(&vec![u32::MAX; steps * rows]).unwrap(), device.from_u32(&[0]).unwrap());
    let of = |i: usize| buffers[i].at(0, rows, Dtype::U32);
    let once = || -> Result<(), cuda::CudaError> {
        let settings = on(rows * SampleSettings::BYTES);
        cuda::sample(&device, logits.at(0, rows * vocabulary, Dtype::F32), rows, vocabulary, settings, of(0), of(1))?;
        cuda::advance(
            &device,
            &Advance {
                sampled: of(0),
                rows,
                next: of(2),
                positions: of(3),
                lengths: of(4),
                settings: Some(settings),
                history: history.at(0, steps * rows, Dtype::U32),
                step: step.at(0, 1, Dtype::U32),
            },
        )
    };
    once().unwrap();
    let graph = device.capture(once).unwrap();
    // Seven steps in all: the last three overwrite the first three of four.
    (0..6).for_each(|_| graph.launch().unwrap());
    let host = device.to_f32(logits.at(0, rows * vocabulary, Dtype::F32)).unwrap();
    let want = |row: usize, position: u64| {
        reference(&host[row * vocabulary..][..vocabulary], &SampleSettings { position, ..settings[row] }).token as u32
    };
    let history = integers(&device, history.at(0, steps * rows, Dtype::U32));
    for (at, position) in [4, 5, 6, 3].into_iter().enumerate() {
        for row in 0..rows {
            assert_eq!(history[at * rows + row], want(row, position), "row {row}, step {position}");
        }
    }
    assert_eq!(integers(&device, of(2)), (0..rows).map(|row| want(row, 6)).collect::<Vec<_>>());
    assert_eq!(integers(&device, of(3)), [17, 27, 37]);
    assert_eq!(integers(&device, of(4)), [18, 28, 38]);
    assert_eq!(integers(&device, step.at(0, 1, Dtype::U32)), [7]);
}

#[test]
fn wrong_operands_are_errors() {
    let Some(device) = device() else { return };
    let buffer = device.allocate(1 << 16).unwrap();
    let (logits, settings) = (buffer.at(0, 200, Dtype::F32), buffer.at(4096, 64, Dtype::U8));
    let (tokens, status) = (buffer.at(8192, 2, Dtype::U32), buffer.at(8448, 2, Dtype::U32));
    device.zero(buffer.tensor(Dtype::U8)).unwrap();
    cuda::sample(&device, logits, 2, 100, settings, tokens, status).unwrap();
    assert!(cuda::sample(&device, logits, 2, 101, settings, tokens, status).is_err());
    assert!(cuda::sample(&device, logits, 3, 100, settings, tokens, status).is_err());
    assert!(cuda::sample(&device, logits.cast(Dtype::U32), 2, 100, settings, tokens, status).is_err());
    assert!(cuda::sample(&device, logits, 2, 100, settings.slice(0, 32), tokens, status).is_err());
    assert!(cuda::sample(&device, logits, 2, 100, settings, tokens.slice(0, 1), status).is_err());
    let wide = cuda::WIDEST_VOCABULARY + 1;
    let error = cuda::sample(&device, logits, 1, wide, settings, tokens, status).unwrap_err();
    assert!(error.to_string().contains("vocabulary"), "{error}");
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let Some(device) = device() else { return };
    let vocabulary = 151_936;
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for rows in [1, 8, 64] {
            let on = device.from_f32(&language(8, vocabulary, rows), dtype).unwrap();
            let integers = device.from_u32(&vec![0; 2 * rows]).unwrap();
            for (name, settings) in [
                ("greedy", SampleSettings { temperature: 0.0, ..PLAIN }),
                ("plain", PLAIN),
                ("top-k 20, top-p 0.95", SampleSettings { temperature: 0.6, top_k: 20, top_p: 0.95, ..PLAIN }),
                ("top-p 0.95", SampleSettings { top_p: 0.95, ..PLAIN }),
                ("min-p 0.05", SampleSettings { min_p: 0.05, ..PLAIN }),
            ] {
                let bytes = settings.to_bytes().repeat(rows);
                let settings = device.allocate(bytes.len()).unwrap();
                let settings = settings.at(0, bytes.len(), Dtype::U8);
                device.upload(&bytes, settings).unwrap();
                let once = || {
                    let (tokens, status) = (integers.at(0, rows, Dtype::U32), integers.at(4 * rows, rows, Dtype::U32));
                    cuda::sample(
                        &device,
                        on.at(0, rows * vocabulary, dtype),
                        rows,
                        vocabulary,
                        settings,
                        tokens,
                        status,
                    )
                };
                once().unwrap();
                let graph = device.capture(|| (0..100).try_for_each(|_| once())).unwrap();
                graph.launch().unwrap();
                device.synchronize().unwrap();
                let start = Instant::now();
                (0..5).for_each(|_| graph.launch().unwrap());
                device.synchronize().unwrap();
                println!(
                    "{dtype:?} {rows:>3} rows, {name:<21} {:>8.2} us",
                    start.elapsed().as_secs_f64() * 1e6 / 500.0
                );
            }
        }
    }
}
