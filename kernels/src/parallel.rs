//! How work is split and where temporary memory comes from.
//!
//! A split depends on shapes alone, never on the number of threads, so that a sum has one order on every machine and in
//! every run. Nothing here knows an operation.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::Mutex;

use rayon::prelude::*;

/// Elements of one task of an elementwise kernel: some ten microseconds of work, well above the cost of a task.
pub(crate) const TASK: usize = 16_384;

/// Rows of `width` elements that make one task.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Runs `work` on consecutive ranges of at most `size` covering `0..total`; a single range runs on the caller, because
/// waking a pool costs more than a small kernel.
pub(crate) fn for_each_range(total: usize, size: usize, work: impl Fn(Range<usize>) + Sync) {
    if total <= size {
        if total > 0 {
            work(0..total);
        }
    } else {
        (0..total.div_ceil(size)).into_par_iter().for_each(|task| work(task * size..((task + 1) * size).min(total)));
    }
}

/// A mutable slice that several tasks write in disjoint parts.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow of the slice; `part` makes its callers promise that parts do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), owner: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that is alive at the same time overlaps it.
    #[allow(clippy::mut_from_ref, reason = "the point of the type; the safety contract forbids overlap")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part outside of the slice");
        // SAFETY: inside the borrowed slice by the assertion, unaliased by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Temporary memory of unspecified content, given back to a small pool when dropped: fresh pages from the system cost
/// more than many of the kernels that need them.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    length: usize,
}

/// What the pool keeps at most, in elements (96 MiB) and in buffers; the oldest go first.
const POOL_ELEMENTS: usize = 24 << 20;
const POOL_BUFFERS: usize = 64;

static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// `length` elements of unspecified content.
pub(crate) fn scratch(length: usize) -> Scratch {
    // Few different sizes, so that steps of slightly different shape reuse each other's buffers.
    let size = if length < 1 << 20 { length.next_power_of_two() } else { length.next_multiple_of(1 << 20) };
    let found = POOL.lock().ok().and_then(|mut pool| {
        let index = pool.iter().rposition(|buffer| buffer.len() == size)?;
        Some(pool.remove(index))
    });
    Scratch { buffer: found.unwrap_or_else(|| vec![0.0; size]), length }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if let Ok(mut pool) = POOL.lock() {
            pool.push(buffer);
            let mut held: usize = pool.iter().map(Vec::len).sum();
            while held > POOL_ELEMENTS || pool.len() > POOL_BUFFERS {
                held -= pool.remove(0).len();
            }
        }
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.length]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.length]
    }
}
