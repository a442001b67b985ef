//! Where the time of a step goes: events around every launch, summed by kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};

use super::error::CudaError;

struct Event(sys::CUevent);

// SAFETY: an event is a handle of the driver, used with its context bound.
unsafe impl Send for Event {}

impl Event {
    fn record(stream: &Arc<CudaStream>) -> Result<Self, CudaError> {
        let fail = |e| CudaError::call("timing a kernel", e);
        let event = Self(result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(fail)?);
        // SAFETY: event and stream belong to the bound context.
        unsafe { result::event::record(event.0, stream.cu_stream()) }.map_err(fail)?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `record`, destroyed once. A failure leaves nothing to do.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}

struct Sample {
    name: String,
    bytes: usize,
    flops: f64,
    start: Event,
    end: Event,
}

/// Timed launches.
#[derive(Default)]
pub(crate) struct Profile {
    samples: Vec<Sample>,
}

/// One kernel's sums.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileRow {
    pub name: String,
    pub calls: usize,
    pub milliseconds: f64,
    /// Bytes of all operands, each counted once a call.
    pub bytes: usize,
    /// Of matrix products; 0 elsewhere.
    pub flops: f64,
}

impl Profile {
    pub(crate) fn time(
        &mut self,
        stream: &Arc<CudaStream>,
        name: &str,
        bytes: usize,
        flops: f64,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let start = Event::record(stream)?;
        launch()?;
        let end = Event::record(stream)?;
        self.samples.push(Sample { name: name.to_owned(), bytes, flops, start, end });
        Ok(())
    }

    pub(crate) fn rows(self) -> Result<Vec<ProfileRow>, CudaError> {
        let mut rows: BTreeMap<String, ProfileRow> = BTreeMap::new();
        for sample in &self.samples {
            // SAFETY: both events were recorded, and the stream was waited for.
            let time = unsafe { result::event::elapsed(sample.start.0, sample.end.0) }
                .map_err(|e| CudaError::call("timing a kernel", e))?;
            let row = rows.entry(sample.name.clone()).or_insert_with(|| ProfileRow {
                name: sample.name.clone(),
                calls: 0,
                milliseconds: 0.0,
                bytes: 0,
                flops: 0.0,
            });
            row.calls += 1;
            row.milliseconds += f64::from(time);
            row.bytes += sample.bytes;
            row.flops += sample.flops;
        }
        let mut rows: Vec<ProfileRow> = rows.into_values().collect();
        rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
        Ok(rows)
    }
}
