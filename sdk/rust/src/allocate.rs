//! The guest's allocator: takes memory one piece after another, and hands out again what was given back, by size.
//!
//! Most plugins live for one call, and the general allocator of the target is a tenth of a plugin's size. A dataset loader
//! lives as long as its source, so what it frees must come back: blocks have few sizes, and the free ones of a size form
//! a list.

#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::null_mut;

/// Every block is of a multiple of this and aligned to it: enough for a pointer, and for nearly all that is asked for.
const SMALLEST: usize = 16;
/// Four sizes for each power of two.
const SIZES: usize = 4 * 28;

/// Where blocks lie.
trait Memory {
    /// The first byte.
    fn base(&self) -> usize;
    /// Makes all before `end` usable; false where there is no more.
    fn reach(&self, end: usize) -> bool;
}

/// The memory of the instance, behind the plugin's own data.
#[cfg(target_arch = "wasm32")]
mod instance {
    const PAGE: usize = 65_536;

    pub(super) struct Instance;

    unsafe extern "C" {
        /// Where the linker ends the plugin's own data.
        static __heap_base: u8;
    }

    impl super::Memory for Instance {
        fn base(&self) -> usize {
            &raw const __heap_base as usize
        }

        fn reach(&self, end: usize) -> bool {
            let have = core::arch::wasm32::memory_size(0) * PAGE;
            end <= have || core::arch::wasm32::memory_grow(0, (end - have).div_ceil(PAGE)) != usize::MAX
        }
    }

    #[global_allocator]
    static HEAP: super::Heap<Instance> = super::Heap::new(Instance);
}

struct Heap<M> {
    memory: M,
    /// First byte that was never taken; 0 before the first allocation.
    next: Cell<usize>,
    /// The first free block of each size; its first bytes point at the next one.
    free: [Cell<*mut u8>; SIZES],
}

// SAFETY: the target has no threads; on the host, tests use one.
unsafe impl<M> Sync for Heap<M> {}

/// The size of the block that serves this layout, and which of the sizes it is: the next multiple of a quarter of the
/// power of two below. `None` for more than the target's memory.
fn size_of(layout: Layout) -> Option<(usize, usize)> {
    let least = layout.size().max(layout.align()).max(SMALLEST);
    if least > isize::MAX as usize {
        return None;
    }
    let power = least.ilog2() as usize;
    let size = least.next_multiple_of((1 << (power - 2)).max(SMALLEST));
    // A size that was rounded up to the next power of two is the first of that one: the numbers go on.
    Some((size, 4 * (power - 4) + (size >> (power - 2)) - 4))
}

impl<M: Memory> Heap<M> {
    const fn new(memory: M) -> Self {
        Self { memory, next: Cell::new(0), free: [const { Cell::new(null_mut()) }; SIZES] }
    }

    fn first_free(&self) -> usize {
        match self.next.get() {
            0 => self.memory.base(),
            next => next,
        }
    }

    /// Moves the end of what is taken.
    fn take_until(&self, end: usize) -> bool {
        let there = self.memory.reach(end);
        if there {
            self.next.set(end);
        }
        there
    }
}

// SAFETY: a block is of the size of its layout's class and aligned to `SMALLEST` or, beyond that, to its layout; it lies
// behind all that was ever taken, or was given back with a layout of the same class and alignment.
unsafe impl<M: Memory> GlobalAlloc for Heap<M> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((size, class)) = size_of(layout) else {
            return null_mut();
        };
        // Larger alignments are too rare to keep lists for.
        if layout.align() <= SMALLEST
            && let Some(list) = self.free.get(class)
            && !list.get().is_null()
        {
            let block = list.get();
            // SAFETY: a free block begins with the pointer that `dealloc` wrote.
            list.set(unsafe { block.cast::<*mut u8>().read() });
            return block;
        }
        let start = self.first_free().next_multiple_of(layout.align().max(SMALLEST));
        match start.checked_add(size) {
            Some(end) if self.take_until(end) => start as *mut u8,
            _ => null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((size, class)) = size_of(layout) else {
            return;
        };
        if block as usize + size == self.next.get() {
            self.next.set(block as usize);
        } else if layout.align() <= SMALLEST
            && let Some(list) = self.free.get(class)
        {
            // SAFETY: the block has room for a pointer and is aligned for one.
            unsafe { block.cast::<*mut u8>().write(list.get()) };
            list.set(block);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the alignment is that of an existing layout.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let (Some((old, _)), Some((new, _))) = (size_of(layout), size_of(wanted)) else {
            return null_mut();
        };
        if new == old {
            return block;
        }
        // The last block grows and shrinks where it lies.
        if block as usize + old == self.next.get() {
            return match (block as usize).checked_add(new) {
                Some(end) if self.take_until(end) => block,
                _ => null_mut(),
            };
        }
        // SAFETY: the blocks do not overlap, and each has its size.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Block {
        start: *mut u8,
        layout: Layout,
        mark: u8,
    }

    impl Block {
        fn fill(&self) {
            // SAFETY: the block has this size.
            unsafe { self.start.write_bytes(self.mark, self.layout.size()) };
        }

        fn check(&self, size: usize) {
            assert!((self.start as usize).is_multiple_of(self.layout.align()));
            // SAFETY: the block has this size and was filled.
            let bytes = unsafe { std::slice::from_raw_parts(self.start, size) };
            assert!(bytes.iter().all(|&byte| byte == self.mark), "{:?} was overwritten", self.layout);
        }
    }

    struct Bytes(Box<[u128]>);

    impl Memory for Bytes {
        fn base(&self) -> usize {
            self.0.as_ptr() as usize
        }

        fn reach(&self, end: usize) -> bool {
            end <= self.0.as_ptr_range().end as usize
        }
    }

    #[test]
    fn sizes_go_up_and_fit() {
        let mut before = (0, 0);
        for least in (1..5000).chain((20..31).map(|power| 1 << power)) {
            let (size, class) = size_of(Layout::from_size_align(least, 1).unwrap()).unwrap();
            assert!(size >= least && size.is_multiple_of(SMALLEST) && size <= least + least / 4 + SMALLEST);
            assert!(class < SIZES && (size == before.0) == (class == before.1) || before.0 == 0, "{least}");
            before = (size, class);
        }
    }

    #[test]
    fn blocks_never_overlap_and_come_back() {
        // Half a megabyte: far less than what is asked for in all.
        let heap = Heap::new(Bytes(vec![0; 1 << 15].into()));
        let mut blocks: Vec<Block> = Vec::new();
        let mut state = 88_172_645_463_325_252u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below) as usize
        };
        for turn in 0..200_000 {
            let size = 1 + random([20, 200, 3000][turn % 3]);
            if blocks.len() < 60 {
                let layout = Layout::from_size_align(size, 1 << random(7)).unwrap();
                let layout = if layout.align() > 16 { Layout::from_size_align(size, 8).unwrap() } else { layout };
                // SAFETY: the size is not 0.
                let start = unsafe { heap.alloc(layout) };
                assert!(!start.is_null(), "full at turn {turn}");
                blocks.push(Block { start, layout, mark: turn as u8 });
            } else {
                let at = random(blocks.len() as u64);
                let mut block = blocks.swap_remove(at);
                block.check(block.layout.size());
                if random(2) == 0 {
                    // SAFETY: the block came from this heap with this layout.
                    unsafe { heap.dealloc(block.start, block.layout) };
                    continue;
                }
                // SAFETY: as above, and the size is not 0.
                block.start = unsafe { heap.realloc(block.start, block.layout, size) };
                assert!(!block.start.is_null(), "full at turn {turn}");
                block.check(size.min(block.layout.size()));
                block.layout = Layout::from_size_align(size, block.layout.align()).unwrap();
                blocks.push(block);
            }
            if let Some(last) = blocks.last() {
                last.fill();
            }
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let heap = Heap::new(Bytes(vec![0; 64].into()));
        // SAFETY: the sizes are not 0.
        unsafe {
            let small = Layout::from_size_align(1000, 1).unwrap();
            let first = heap.alloc(small);
            assert!(!first.is_null() && heap.alloc(small).is_null());
            assert!(heap.realloc(first, small, 2000).is_null());
            assert!(heap.alloc(Layout::from_size_align(1, 4096).unwrap()).is_null());
            assert!(heap.alloc(Layout::from_size_align(isize::MAX as usize, 1).unwrap()).is_null());
            heap.dealloc(first, small);
            assert_eq!(heap.alloc(small), first);
        }
    }
}
