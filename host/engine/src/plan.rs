//! How much memory a session will take, known before its first step.

/// Bytes by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights mapped from files; the system may drop and reread them.
    pub mapped_weights: u64,
    /// Weights held in memory, trained ones included.
    pub owned_weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    /// Largest sum of live activations in a step.
    pub activations: u64,
    /// Logits of one chunk of the loss, and their operands.
    pub loss_chunk: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.mapped_weights + self.owned_weights + self.gradients + self.optimizer + self.activations + self.loss_chunk
    }

    /// Rows for a table: what and bytes.
    pub fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("mapped weights", self.mapped_weights),
            ("weights in memory", self.owned_weights),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("loss chunk", self.loss_chunk),
        ]
    }
}
