//! TensorBoard event files: TFRecord framing and the three protobuf messages scalars need.
//!
//! Formats: `tensorflow/core/lib/io/record_writer.h` (length, masked CRC-32C, data, masked CRC-32C) and
//! `tensorflow/core/util/event.proto`, `framework/summary.proto`.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::error::TrainError;

/// An open event file.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a file in `<run>/runs`. A run that resumes at `step` tells TensorBoard to forget what an earlier file
    /// says about later steps.
    pub fn create(run_folder: &Path, step: u64) -> Result<Self, TrainError> {
        let folder = run_folder.join("runs");
        fs::create_dir_all(&folder).map_err(TrainError::io("create", &folder))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = folder.join(format!("events.out.tfevents.{seconds}.swift.{}.{step}", std::process::id()));
        let file = File::create(&path).map_err(TrainError::io("create", &path))?;
        let mut events = Self { path, file };
        let mut version = event(now(), 0);
        bytes_field(&mut version, 3, b"brain.Event:2");
        events.write(&version)?;
        if step > 0 {
            // SessionLog { status: START }; its step purges.
            let mut start = event(now(), step + 1);
            bytes_field(&mut start, 7, &[0x08, 0x01]);
            events.write(&start)?;
        }
        Ok(events)
    }

    /// Writes scalars of one step.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut message = event(now(), step);
        bytes_field(&mut message, 5, &summary);
        self.write(&message)
    }

    fn write(&mut self, message: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(&record(message)).map_err(TrainError::io("write", &self.path))
    }
}

/// Frames one message as a TFRecord.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The head of an `Event`: wall time (field 1, double) and step (field 2, int64).
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut message = vec![1 << 3 | 1];
    message.extend(wall_time.to_le_bytes());
    message.push(2 << 3);
    varint(&mut message, step);
    message
}

fn bytes_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of each record, after checking its framing.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(file[8..12].try_into().unwrap()), masked_crc(&file[..8]));
            let data = &file[12..12 + length];
            assert_eq!(u32::from_le_bytes(file[12 + length..16 + length].try_into().unwrap()), masked_crc(data));
            found.push(data.to_vec());
            file = &file[16 + length..];
        }
        found
    }

    /// Protobuf fields by number: varints, fixed32/64 and byte strings, all as bytes.
    fn fields(mut message: &[u8]) -> Vec<(u8, Vec<u8>)> {
        fn read_varint(message: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let byte = message[0];
                *message = &message[1..];
                value |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !message.is_empty() {
            let key = read_varint(&mut message);
            let length = match key & 7 {
                0 => {
                    found.push(((key >> 3) as u8, read_varint(&mut message).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read_varint(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            found.push(((key >> 3) as u8, message[..length].to_vec()));
            message = &message[length..];
        }
        found
    }

    #[test]
    fn what_is_written_reads_back() {
        let run = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(run.path(), 300).unwrap();
        events.scalars(301, &[("train/loss", 0.5), ("train/learning_rate", 1e-4)]).unwrap();
        let file = fs::read(&events.path).unwrap();
        let messages: Vec<_> = records(&file).iter().map(|data| fields(data)).collect();
        assert_eq!(messages.len(), 3);
        assert!(messages[0].contains(&(3, b"brain.Event:2".to_vec())));
        assert!(messages[1].contains(&(2, 301u64.to_le_bytes().to_vec())));
        assert!(messages[1].contains(&(7, vec![8, 1])));
        let summary = &messages[2].iter().find(|(number, _)| *number == 5).unwrap().1;
        let scalars: Vec<(String, f32)> = fields(summary)
            .into_iter()
            .map(|(_, value)| {
                let value = fields(&value);
                let number = f32::from_le_bytes(value[1].1[..].try_into().unwrap());
                (String::from_utf8(value[0].1.clone()).unwrap(), number)
            })
            .collect();
        assert_eq!(scalars, [("train/loss".to_string(), 0.5), ("train/learning_rate".to_string(), 1e-4)]);
    }

    /// The masked CRC of TensorFlow's own test of eight zero bytes' framing is checked through a known CRC-32C.
    #[test]
    fn the_checksum_is_crc32c_masked() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
