//! Weights in few bits on the GPU against the CPU's, which are held against bitsandbytes: codes and values bit for bit.

mod common;

use common::{close, device, random, round};
use swift_kernels as cpu;
use swift_kernels::cuda::{self, BlockScales, Buffer, Device, Dtype, Tensor};
use swift_kernels::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, Weight};

const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];
const KINDS: [FourBit; 2] = [FourBit::Nf4, FourBit::Fp4];

/// Weights as they are in models: small, and most of them smaller. One block is zero.
fn weights(seed: u64, length: usize, dtype: Dtype) -> Vec<f32> {
    let mut w: Vec<f32> =
        random(seed, length, 0.2).iter().zip(random(seed + 1, length, 1.0)).map(|(a, b)| a * b).collect();
    if length > 2 * FOUR_BIT_BLOCK {
        w[FOUR_BIT_BLOCK..2 * FOUR_BIT_BLOCK].fill(0.0);
    }
    round(w, dtype)
}

fn bytes(device: &Device, tensor: Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    device.download(tensor, &mut bytes).unwrap();
    bytes
}

fn upload(device: &Device, bytes: &[u8]) -> Buffer {
    let buffer = device.allocate(bytes.len()).unwrap();
    device.upload(bytes, buffer.tensor(Dtype::U8)).unwrap();
    buffer
}

fn floats(device: &Device, values: &[f32]) -> Buffer {
    device.from_f32(values, Dtype::F32).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn same<X: PartialEq + std::fmt::Debug>(what: &str, got: &[X], want: &[X]) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let other = got.iter().zip(want).enumerate().find(|(_, (g, w))| g != w);
    assert!(other.is_none(), "{what}: element, got and wanted {other:?} of {}", got.len());
}

struct FourBits {
    codes: Vec<u8>,
    absmax: Vec<f32>,
    values: Vec<f32>,
}

fn four_bits(kind: FourBit, w: &[f32]) -> FourBits {
    let mut codes = vec![0; w.len().div_ceil(2)];
    let mut absmax = vec![0.0; w.len().div_ceil(FOUR_BIT_BLOCK)];
    let mut values = vec![0.0; w.len()];
    cpu::quantize_4bit(kind, w, &mut codes, &mut absmax);
    cpu::dequantize_4bit(kind, &codes, &absmax, &mut values);
    FourBits { codes, absmax, values }
}

#[test]
fn four_bits_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for kind in KINDS {
            for (length, offset) in [(1, 0), (7, 0), (64, 0), (165, 0), (4096, 1), (70_400, 0), (100_003, 0)] {
                let what = |name: &str| format!("{name} {kind:?} {dtype:?} {length} at {offset}");
                let w = weights(1, length, dtype);
                let want = four_bits(kind, &w);
                let gw = device.from_f32(&[vec![0.0; offset], w].concat(), dtype).unwrap();
                let codes = upload(&device, &vec![0xaa; want.codes.len()]);
                let absmax = floats(&device, &vec![f32::NAN; want.absmax.len()]);
                let (codes, absmax) = (codes.tensor(Dtype::U8), absmax.tensor(Dtype::F32));
                cuda::quantize_4bit(&device, kind, gw.tensor(dtype).slice(offset, length), codes, absmax).unwrap();
                same(&what("absmax"), &bits(&device.to_f32(absmax).unwrap()), &bits(&want.absmax));
                same(&what("codes"), &bytes(&device, codes), &want.codes);
                let out = device.from_f32(&vec![f32::NAN; length + offset], dtype).unwrap();
                let out = out.tensor(dtype).slice(offset, length);
                cuda::dequantize_4bit(&device, kind, codes, BlockScales::Plain(absmax), out).unwrap();
                let got = device.to_f32(out).unwrap();
                same(&what("values"), &bits(&got), &bits(&round(want.values, dtype)));
            }
        }
    }
}

#[test]
fn numbers_that_are_none_stay_visible() {
    let Some(device) = device() else { return };
    let mut w = vec![1.0; 128];
    w[70] = f32::NAN;
    let gw = device.from_f32(&w, Dtype::Bf16).unwrap();
    let (codes, absmax) = (device.allocate(64).unwrap(), device.allocate(8).unwrap());
    let out = device.from_f32(&w, Dtype::Bf16).unwrap();
    let (c, a) = (codes.tensor(Dtype::U8), absmax.tensor(Dtype::F32));
    cuda::quantize_nf4(&device, gw.tensor(Dtype::Bf16), c, a).unwrap();
    cuda::dequantize_nf4(&device, c, a, out.tensor(Dtype::Bf16)).unwrap();
    let got = device.to_f32(out.tensor(Dtype::Bf16)).unwrap();
    assert!(got[..64].iter().all(|x| *x == 1.0) && got[64..].iter().all(|x| x.is_nan()), "{got:?}");
}

#[test]
fn nested_scales_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    let map_buffer = floats(&device, cpu::dynamic_map());
    let map = map_buffer.tensor(Dtype::F32);
    for blocks in [1, 255, 256, 300, 2500, 300_001] {
        let absmax: Vec<f32> = random(7, blocks, 0.05).iter().map(|x| x + 0.06).collect();
        let mut want_codes = vec![0; blocks];
        let mut want_nested = vec![0.0; blocks.div_ceil(NESTED_BLOCK)];
        let want_offset = cpu::quantize_absmax(&absmax, &mut want_codes, &mut want_nested);
        let mut want_scales = vec![0.0; blocks];
        cpu::dequantize_absmax(&want_codes, &want_nested, cpu::dynamic_map(), want_offset, &mut want_scales);

        let gabsmax = floats(&device, &absmax);
        let codes = upload(&device, &vec![0xaa; blocks]);
        let nested = floats(&device, &vec![f32::NAN; want_nested.len()]);
        let offset = floats(&device, &[f32::NAN]);
        let (codes, nested) = (codes.tensor(Dtype::U8), nested.tensor(Dtype::F32));
        let (offset, scales) = (offset.tensor(Dtype::F32), gabsmax.tensor(Dtype::F32));
        cuda::quantize_absmax(&device, scales, map, codes, nested, offset).unwrap();
        same(&format!("offset of {blocks}"), &device.to_f32(offset).unwrap(), &[want_offset]);
        same(&format!("nested of {blocks}"), &device.to_f32(nested).unwrap(), &want_nested);
        same(&format!("codes of {blocks}"), &bytes(&device, codes), &want_codes);
        cuda::dequantize_absmax(&device, codes, nested, map, offset, scales).unwrap();
        same(&format!("scales of {blocks}"), &device.to_f32(scales).unwrap(), &want_scales);

        // The values of weights whose scales these are.
        if blocks < 3000 {
            let length = blocks * FOUR_BIT_BLOCK;
            let packed: Vec<u8> =
                (0..length / 2).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
            let mut want = vec![0.0; length];
            cpu::dequantize_4bit(FourBit::Nf4, &packed, &want_scales, &mut want);
            let packed = upload(&device, &packed);
            let out = device.from_f32(&vec![f32::NAN; length], Dtype::F32).unwrap();
            let all = BlockScales::Nested { codes, absmax: nested, map, offset };
            let out = out.tensor(Dtype::F32);
            cuda::dequantize_4bit(&device, FourBit::Nf4, packed.tensor(Dtype::U8), all, out).unwrap();
            same(&format!("values of {blocks}"), &bits(&device.to_f32(out).unwrap()), &bits(&want));
        }
    }
}

#[test]
fn eight_bit_rows_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        for (rows, width) in [(1, 1), (3, 33), (128, 64), (40, 1024), (7, 3000)] {
            let what = |name: &str| format!("{name} {dtype:?} [{rows}, {width}]");
            let mut w = weights(3, rows * width, dtype);
            w[(rows - 1) * width..].iter_mut().for_each(|x| *x *= if rows > 2 { 0.0 } else { 1.0 });
            let (mut codes, mut absmax, mut values) = (vec![0i8; w.len()], vec![0.0; rows], vec![0.0; w.len()]);
            cpu::quantize_int8(&w, width, &mut codes, &mut absmax);
            cpu::dequantize_int8(&codes, &absmax, width, &mut values);
            let gw = device.from_f32(&w, dtype).unwrap();
            let gcodes = upload(&device, &vec![0xaa; w.len()]);
            let gabsmax = floats(&device, &vec![f32::NAN; rows]);
            let (gcodes, gabsmax) = (gcodes.tensor(Dtype::U8), gabsmax.tensor(Dtype::F32));
            cuda::quantize_int8(&device, gw.tensor(dtype), width, gcodes, gabsmax).unwrap();
            same(&what("absmax"), &bits(&device.to_f32(gabsmax).unwrap()), &bits(&absmax));
            let codes: Vec<u8> = codes.iter().map(|x| *x as u8).collect();
            same(&what("codes"), &bytes(&device, gcodes), &codes);
            let out = device.from_f32(&vec![f32::NAN; w.len()], dtype).unwrap();
            cuda::dequantize_int8(&device, gcodes, gabsmax, width, out.tensor(dtype)).unwrap();
            same(&what("values"), &device.to_f32(out.tensor(dtype)).unwrap(), &round(values, dtype));
        }
    }
}

#[test]
fn products_with_packed_weights() {
    let Some(device) = device() else { return };
    for dtype in FLOATS {
        let tolerance = if dtype == Dtype::F32 { 2e-6 } else { 4e-3 };
        for (n, k) in [(1, 64), (5, 128), (37, 576), (130, 1024), (64, 3072)] {
            let w = weights(5, n * k, Dtype::Bf16);
            for rows in 1..=cuda::FEW_ROWS {
                let x = round(random(9, rows * k, 1.0), dtype);
                let gx = device.from_f32(&x, dtype).unwrap();
                let product = |values: &[f32]| {
                    let mut want = vec![0.0; rows * n];
                    cpu::linear(&x, rows, k, Weight::F32(values), n, None, 1.0, 0.0, &mut want);
                    want
                };
                let check = |name: &str, values: &[f32], run: &dyn Fn(Tensor)| {
                    let out = device.from_f32(&vec![f32::NAN; rows * n], dtype).unwrap();
                    run(out.tensor(dtype));
                    let got = device.to_f32(out.tensor(dtype)).unwrap();
                    close(&format!("{name} {dtype:?} {rows} rows, [{n}, {k}]"), &got, &product(values), tolerance);
                };
                for kind in KINDS {
                    let packed = four_bits(kind, &w);
                    let (codes, absmax) = (upload(&device, &packed.codes), floats(&device, &packed.absmax));
                    let (codes, scales) = (codes.tensor(Dtype::U8), BlockScales::Plain(absmax.tensor(Dtype::F32)));
                    check(&format!("{kind:?}"), &packed.values, &|out| {
                        let x = gx.tensor(dtype);
                        cuda::linear_4bit_few_rows(&device, kind, x, codes, scales, n, k, out).unwrap();
                    });
                }
                let (mut codes, mut absmax) = (vec![0i8; n * k], vec![0.0; n]);
                let mut values = vec![0.0; n * k];
                cpu::quantize_int8(&w, k, &mut codes, &mut absmax);
                cpu::dequantize_int8(&codes, &absmax, k, &mut values);
                let codes = upload(&device, &codes.iter().map(|x| *x as u8).collect::<Vec<_>>());
                let absmax = floats(&device, &absmax);
                check("int8", &values, &|out| {
                    let (c, a) = (codes.tensor(Dtype::U8), absmax.tensor(Dtype::F32));
                    cuda::linear_int8_few_rows(&device, gx.tensor(dtype), c, a, n, k, out).unwrap();
                });
            }
        }
    }
}

#[test]
fn a_product_with_nested_scales() {
    let Some(device) = device() else { return };
    let (n, k) = (50, 512);
    let blocks = n * k / FOUR_BIT_BLOCK;
    let mut packed = four_bits(FourBit::Nf4, &weights(5, n * k, Dtype::Bf16));
    let (mut codes, mut nested) = (vec![0; blocks], vec![0.0; blocks.div_ceil(NESTED_BLOCK)]);
    let offset = cpu::quantize_absmax(&packed.absmax, &mut codes, &mut nested);
    cpu::dequantize_absmax(&codes, &nested, cpu::dynamic_map(), offset, &mut packed.absmax);
    cpu::dequantize_4bit(FourBit::Nf4, &packed.codes, &packed.absmax, &mut packed.values);
    let x = random(9, 3 * k, 1.0);
    let mut want = vec![0.0; 3 * n];
    cpu::linear(&x, 3, k, Weight::F32(&packed.values), n, None, 1.0, 0.0, &mut want);
    let (gx, gw, gcodes) = (floats(&device, &x), upload(&device, &packed.codes), upload(&device, &codes));
    let (gnested, gmap) = (floats(&device, &nested), floats(&device, cpu::dynamic_map()));
    let (goffset, out) = (floats(&device, &[offset]), floats(&device, &vec![f32::NAN; 3 * n]));
    let [x, absmax, map, offset, out] = [&gx, &gnested, &gmap, &goffset, &out].map(|b| b.tensor(Dtype::F32));
    let scales = BlockScales::Nested { codes: gcodes.tensor(Dtype::U8), absmax, map, offset };
    cuda::linear_4bit_few_rows(&device, FourBit::Nf4, x, gw.tensor(Dtype::U8), scales, n, k, out).unwrap();
    close("nested", &device.to_f32(out).unwrap(), &want, 2e-6);
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = device() else { return };
    let buffer = device.allocate(4096).unwrap();
    let (x, codes) = (buffer.at(0, 64, Dtype::F32), buffer.at(0, 96, Dtype::U8));
    let scales = BlockScales::Plain(buffer.at(0, 3, Dtype::F32));
    let error = cuda::linear_4bit_few_rows(&device, FourBit::Nf4, x, codes, scales, 3, 32, x).unwrap_err();
    assert!(error.to_string().contains("rows of 32, a multiple of 64"), "{error}");
    let error = cuda::quantize_nf4(&device, x, codes, x).unwrap_err();
    assert!(error.to_string().contains("codes has 96 elements of U8, not 32 of U8"), "{error}");
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement is for reading")]
fn speed_beside_a_copy() {
    let Some(device) = device() else { return };
    let (n, k) = (24_576, 4096);
    let length = n * k;
    let w = device.allocate(length * 2).unwrap();
    let (codes, absmax) = (device.allocate(length).unwrap(), device.allocate(length / 16).unwrap());
    let (x, out) = (device.allocate(8 * k * 2).unwrap(), device.allocate(8 * n * 2).unwrap());
    for buffer in [&w, &codes, &absmax, &x, &out] {
        device.zero(buffer.tensor(Dtype::U8)).unwrap();
    }
    let (w, half) = (w.tensor(Dtype::Bf16), codes.at(0, length / 2, Dtype::U8));
    let (scales, row_scales) = (absmax.tensor(Dtype::F32), absmax.at(0, n, Dtype::F32));
    let rate = |name: &str, bytes: usize, call: &dyn Fn()| {
        call();
        let best = (0..8)
            .map(|_| {
                device.start_profile();
                call();
                let rows = device.end_profile().unwrap();
                rows.iter().find(|row| row.name == name).map_or(f64::INFINITY, |row| row.milliseconds)
            })
            .fold(f64::INFINITY, f64::min);
        bytes as f64 / best / 1e6
    };
    let packed = length / 2 + length / 16;
    let copy =
        rate("copy", 2 * length, &|| device.copy(w.slice(0, length / 2), w.slice(length / 2, length / 2)).unwrap());
    let dequantize = rate("dequantize_4bit", packed + 2 * length, &|| {
        cuda::dequantize_nf4(&device, half, scales, w).unwrap();
    });
    let quantize = rate("quantize_4bit", packed + 2 * length, &|| {
        cuda::quantize_nf4(&device, w, half, scales).unwrap();
    });
    let mut report = vec![format!("copy {copy:.0}, dequantize {dequantize:.0}, quantize {quantize:.0}")];
    for (rows, four, eight) in [
        (1, "linear_4bit_1", "linear_int8_1"),
        (2, "linear_4bit_2", "linear_int8_2"),
        (4, "linear_4bit_4", "linear_int8_4"),
        (8, "linear_4bit_8", "linear_int8_8"),
    ] {
        let (x, out) = (x.at(0, rows * k, Dtype::Bf16), out.at(0, rows * n, Dtype::Bf16));
        let nf4 = rate(four, packed, &|| cuda::nf4_linear_few_rows(&device, x, half, scales, n, k, out).unwrap());
        let int8 = rate(eight, length, &|| {
            cuda::linear_int8_few_rows(&device, x, codes.tensor(Dtype::U8), row_scales, n, k, out).unwrap();
        });
        report.push(format!("{rows} rows: nf4 {nf4:.0}, int8 {int8:.0}"));
    }
    eprintln!("GB/s on [{n}, {k}] bf16: {}", report.join("; "));
}
