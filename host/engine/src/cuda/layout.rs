//! Where each slot of a program lies in one stretch of device memory, for one number of rows: decided before anything
//! runs, so that the peak is known, nothing is allocated inside a step, and addresses stay the same from step to step.

use std::collections::HashMap;

use swift_graph::program::{Slot, Step};

/// Offsets are multiples of this: what the widest accesses and cuDNN want.
const ALIGNMENT: usize = 256;

/// Offsets of a program's slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes from the start, by slot; `None` for the inputs, which lie elsewhere.
    pub(crate) offsets: Vec<Option<usize>>,
    /// Length of the whole stretch.
    pub(crate) bytes: usize,
}

/// Free stretches by offset.
struct FreeList {
    /// Offset and length, ascending, never adjacent.
    free: Vec<(usize, usize)>,
    end: usize,
}

impl FreeList {
    /// The tightest free stretch that fits, or more at the end.
    fn take(&mut self, bytes: usize) -> usize {
        let best = self.free.iter().enumerate().filter(|(_, (_, n))| *n >= bytes).min_by_key(|(_, (_, n))| *n);
        if let Some((i, &(offset, length))) = best {
            if length == bytes {
                self.free.remove(i);
            } else {
                self.free[i] = (offset + bytes, length - bytes);
            }
            return offset;
        }
        // The last free stretch, if it touches the end, grows.
        let offset = match self.free.last() {
            Some(&(offset, length)) if offset + length == self.end => {
                self.free.pop();
                offset
            }
            _ => self.end,
        };
        self.end = offset + bytes;
        offset
    }

    fn give(&mut self, offset: usize, bytes: usize) {
        let at = self.free.partition_point(|(o, _)| *o < offset);
        self.free.insert(at, (offset, bytes));
        if at + 1 < self.free.len() && self.free[at].0 + self.free[at].1 == self.free[at + 1].0 {
            self.free[at].1 += self.free.remove(at + 1).1;
        }
        if at > 0 && self.free[at - 1].0 + self.free[at - 1].1 == self.free[at].0 {
            self.free[at - 1].1 += self.free.remove(at).1;
        }
    }
}

impl Layout {
    /// Places every slot that `steps` write; `bytes_of` gives its size.
    pub(crate) fn new(steps: &[Step], slots: usize, bytes_of: impl Fn(Slot) -> usize) -> Self {
        let size = |slot: Slot| bytes_of(slot).next_multiple_of(ALIGNMENT);
        let mut offsets: Vec<Option<usize>> = vec![None; slots];
        let mut space = FreeList { free: Vec::new(), end: 0 };
        let mut peak = 0;
        // A slot made in another's place shares its stretch; the stretch is free when the last of them is.
        let mut owners: HashMap<usize, usize> = HashMap::new();
        for step in steps {
            for (i, &output) in step.outputs.iter().enumerate() {
                let reused = (i == 0 && step.reuse).then(|| step.accumulate.map(|a| step.inputs[a])).flatten();
                let offset = match reused.and_then(|slot| offsets[slot.0 as usize]) {
                    Some(offset) => offset,
                    None => {
                        let offset = space.take(size(output));
                        owners.insert(offset, size(output));
                        offset
                    }
                };
                offsets[output.0 as usize] = Some(offset);
            }
            peak = peak.max(space.end);
            for &slot in &step.frees {
                if let Some(offset) = offsets[slot.0 as usize]
                    && let Some(bytes) = owners.remove(&offset)
                {
                    space.give(offset, bytes);
                }
            }
        }
        Self { offsets, bytes: peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_stretches_join_and_are_used_again() {
        let mut space = FreeList { free: Vec::new(), end: 0 };
        let (a, b, c) = (space.take(100), space.take(50), space.take(70));
        assert_eq!((a, b, c, space.end), (0, 100, 150, 220));
        space.give(a, 100);
        space.give(b, 50);
        assert_eq!(space.free, [(0, 150)]);
        assert_eq!(space.take(120), 0);
        assert_eq!(space.free, [(120, 30)]);
        space.give(c, 70);
        assert_eq!(space.free, [(120, 100)]);
        // What touches the end grows instead of leaving a hole.
        assert_eq!(space.take(130), 120);
        assert_eq!((space.end, space.free.len()), (250, 0));
    }
}
