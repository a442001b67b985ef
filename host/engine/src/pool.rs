//! Buffers that live from the step that writes them to the step that reads them last, and are used again.

/// Free buffers by capacity.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Vec<Vec<f32>>,
}

impl Pool {
    /// A buffer of `length` elements with unspecified contents: the smallest free one that holds them, unless it would
    /// waste more than it uses.
    pub(crate) fn take(&mut self, length: usize) -> Vec<f32> {
        let best = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, b)| b.capacity() >= length && b.capacity() <= 2 * length.max(1024))
            .min_by_key(|(_, b)| b.capacity())
            .map(|(i, _)| i);
        let mut buffer = match best {
            Some(i) => self.free.swap_remove(i),
            None => Vec::with_capacity(length),
        };
        buffer.resize(length, 0.0);
        buffer
    }

    /// Gives a buffer back.
    pub(crate) fn give(&mut self, buffer: Vec<f32>) {
        self.free.push(buffer);
    }

    /// Returns all free buffers to the system; called when the number of rows changes much.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
    }
}
