//! The guest's allocator: takes memory one piece after another and gives back only the last one.
//!
//! A plugin lives for one call and allocates a few hundred kilobytes, so nothing better is needed, and the general
//! allocator of the target is a tenth of a plugin's size.

#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

const PAGE: usize = 65_536;

struct Heap {
    /// First free byte; 0 before the first allocation.
    next: Cell<usize>,
}

// SAFETY: the target has no threads.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { next: Cell::new(0) };

unsafe extern "C" {
    /// Where the linker ends the plugin's own data.
    static __heap_base: u8;
}

impl Heap {
    fn first_free(&self) -> usize {
        match self.next.get() {
            0 => &raw const __heap_base as usize,
            next => next,
        }
    }

    /// Moves the end of what is taken, asking the host for memory when it lies beyond.
    fn take_until(&self, end: usize) -> bool {
        let have = core::arch::wasm32::memory_size(0) * PAGE;
        if end > have && core::arch::wasm32::memory_grow(0, (end - have).div_ceil(PAGE)) == usize::MAX {
            return false;
        }
        self.next.set(end);
        true
    }
}

// SAFETY: every block lies behind all earlier ones that are still in use, is aligned, and inside the memory.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.first_free().next_multiple_of(layout.align());
        match start.checked_add(layout.size()) {
            Some(end) if self.take_until(end) => start as *mut u8,
            _ => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block as usize + layout.size() == self.next.get() {
            self.next.set(block as usize);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if block as usize + layout.size() == self.next.get() {
            return match (block as usize).checked_add(size) {
                Some(end) if self.take_until(end) => block,
                _ => std::ptr::null_mut(),
            };
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the alignment is that of an existing layout, and the blocks do not overlap.
        unsafe {
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                std::ptr::copy_nonoverlapping(block, moved, layout.size());
            }
            moved
        }
    }
}
