//! Sums over ranks by NCCL: with one rank on any GPU, with several where there are as many.

mod common;

use std::time::Duration;

use swift_kernels::cuda::{
    CudaError, Device, Dtype,
    nccl::{self, Communicator, UniqueId},
};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether NCCL is there; says so if not.
#[allow(clippy::print_stdout, reason = "a test that skips says so")]
fn found() -> bool {
    match nccl::version() {
        Ok(version) => {
            println!("NCCL {version}");
            true
        }
        Err(why @ CudaError::MissingLibrary { .. }) => {
            println!("skipped: {why}");
            false
        }
        Err(other) => panic!("{other}"),
    }
}

/// What one rank finds: its sums and what it was sent.
fn run(device: &Device, id: &UniqueId, rank: usize, ranks: usize) -> (Vec<f32>, Vec<f64>, Vec<f32>) {
    let communicator = Communicator::new(device, id, rank, ranks, TIMEOUT).expect("a communicator");
    assert_eq!((communicator.rank(), communicator.world_size()), (rank, ranks));
    let own: Vec<f32> = (0..1003).map(|i| (rank * 10_000 + i) as f32).collect();
    let tensor = device.from_f32(&own, Dtype::F32).expect("memory");
    communicator.all_reduce_sum(device, tensor.tensor(Dtype::F32)).expect("a sum");
    // More than the communicator's buffer starts with, so that it grows.
    let mut numbers: Vec<f64> = (0..200).map(|i| (rank + 1) as f64 * 1e-9 + f64::from(i)).collect();
    communicator.all_reduce_sum_f64(device, &mut numbers).expect("sums");
    let sent = device.from_f32(&[rank as f32 + 0.5; 77], Dtype::F32).expect("memory");
    communicator.broadcast(device, sent.tensor(Dtype::F32), ranks - 1).expect("a broadcast");
    let sums = device.to_f32(tensor.tensor(Dtype::F32)).expect("a download");
    (sums, numbers, device.to_f32(sent.tensor(Dtype::F32)).expect("a download"))
}

fn check(ranks: usize, (sums, numbers, sent): (Vec<f32>, Vec<f64>, Vec<f32>)) {
    let offset = 10_000 * ranks * (ranks - 1) / 2;
    for (i, &sum) in sums.iter().enumerate() {
        assert_eq!(sum, (offset + ranks * i) as f32, "element {i} of {ranks} ranks");
    }
    for (i, &sum) in numbers.iter().enumerate() {
        let want = (1..=ranks).map(|r| r as f64 * 1e-9 + i as f64).sum::<f64>();
        assert!((sum - want).abs() < 1e-12 * (1.0 + want), "f64 sum {i}: {sum:.15} for {want:.15}");
    }
    assert_eq!(sent, vec![(ranks - 1) as f32 + 0.5; 77]);
}

#[test]
fn one_rank_sums_to_itself() {
    let Some(device) = common::device() else { return };
    if !found() {
        return;
    }
    let id = UniqueId::new().expect("an id");
    check(1, run(&device, &id, 0, 1));
}

#[test]
#[allow(clippy::print_stdout, reason = "a test that skips says so")]
fn ranks_on_several_gpus_add_up() {
    let ranks = Device::count().unwrap_or(0);
    if ranks < 2 {
        println!("skipped: {ranks} GPUs");
        return;
    }
    if !found() {
        return;
    }
    let id = UniqueId::new().expect("an id");
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..ranks)
            .map(|rank| scope.spawn(move || run(&Device::open(rank).expect("a GPU"), &id, rank, ranks)))
            .collect();
        for worker in workers {
            check(ranks, worker.join().expect("a rank"));
        }
    });
}

#[test]
fn wrong_operands_are_refused() {
    let Some(device) = common::device() else { return };
    if !found() {
        return;
    }
    let id = UniqueId::new().expect("an id");
    assert!(matches!(Communicator::new(&device, &id, 1, 1, TIMEOUT), Err(CudaError::Invalid(_))));
    let communicator = Communicator::new(&device, &id, 0, 1, TIMEOUT).expect("a communicator");
    let half = device.from_f32(&[1.0; 8], Dtype::Bf16).expect("memory");
    assert!(matches!(communicator.all_reduce_sum(&device, half.tensor(Dtype::Bf16)), Err(CudaError::Invalid(_))));
    assert!(matches!(communicator.broadcast(&device, half.tensor(Dtype::Bf16), 1), Err(CudaError::Invalid(_))));
}
