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
        (0..total.div_ceil(size))
            .into_par_iter()
            .for_each(|task| work(task * size..((task + 1) * size).min(total)));
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
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            owner: PhantomData,
        }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other part that is alive at the same time overlaps it.
    #[allow(
        clippy::mut_from_ref,
        reason = "the point of the type; the safety contract forbids overlap"
    )]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "part outside of the slice"
        );
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

/// Bytes the pool keeps at most.
const POOL_BYTES: usize = 96 << 20;

static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// `length` elements of unspecified content.
pub(crate) fn scratch(length: usize) -> Scratch {
    let found = POOL.lock().ok().and_then(|mut pool| {
        // The smallest that fits and is not absurdly large.
        let best = (0..pool.len())
            .filter(|index| pool[*index].len() >= length && pool[*index].len() / 4 <= length)
            .min_by_key(|index| pool[*index].len())?;
        Some(pool.swap_remove(best))
    });
    Scratch {
        buffer: found.unwrap_or_else(|| vec![0.0; length]),
        length,
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        if let Ok(mut pool) = POOL.lock() {
            let held: usize = pool.iter().map(|buffer| buffer.len() * 4).sum();
            if held + buffer.len() * 4 <= POOL_BYTES {
                pool.push(buffer);
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
