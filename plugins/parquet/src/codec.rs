//! Decompression that stops at a limit: a page of a few bytes can say that it becomes gigabytes.

use std::io::{self, Read};

use parquet::basic::CompressionCodec as Codec;

/// The largest page. Writers aim at one megabyte; a page that holds one huge image may be larger.
pub(crate) const LARGEST_PAGE: usize = 128 << 20;

/// What is done about a codec that is not read.
const REWRITE: &str = "write the file again with compression \"zstd\" or \"snappy\"";

/// Whether pages of this codec can be read.
pub(crate) fn check(codec: Codec) -> Result<(), String> {
    match codec {
        Codec::LZO => Err(format!("pages compressed with LZO are not read; {REWRITE}")),
        _ => Ok(()),
    }
}

/// The bytes of a page.
pub(crate) fn decompress(codec: Codec, compressed: &[u8]) -> Result<Vec<u8>, String> {
    let damaged = |error: &dyn std::fmt::Display| format!("damaged {} data: {error}", name(codec));
    match codec {
        Codec::UNCOMPRESSED => Ok(compressed.to_vec()),
        Codec::SNAPPY => {
            let length = snap::raw::decompress_len(compressed).map_err(|error| damaged(&error))?;
            if length > LARGEST_PAGE {
                return Err(too_large());
            }
            snap::raw::Decoder::new().decompress_vec(compressed).map_err(|error| damaged(&error))
        }
        Codec::GZIP => bounded(flate2::read::MultiGzDecoder::new(compressed)).map_err(|e| damaged(&e)),
        Codec::BROTLI => bounded(brotli_decompressor::Decompressor::new(compressed, 4096)).map_err(|e| damaged(&e)),
        Codec::ZSTD => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(compressed).map_err(|error| damaged(&error))?;
            bounded(decoder).map_err(|error| damaged(&error))
        }
        Codec::LZ4_RAW => lz4_block(compressed).ok_or_else(|| damaged(&"not an LZ4 block")),
        Codec::LZ4 => lz4_hadoop(compressed)
            .or_else(|| {
                let frame = bounded(lz4_flex::frame::FrameDecoder::new(compressed)).ok();
                frame.or_else(|| lz4_block(compressed))
            })
            .ok_or_else(|| damaged(&"neither Hadoop's form nor a frame nor a block")),
        Codec::LZO => check(codec).map(|()| Vec::new()),
    }
}

fn name(codec: Codec) -> &'static str {
    match codec {
        Codec::UNCOMPRESSED => "plain",
        Codec::SNAPPY => "snappy",
        Codec::GZIP => "gzip",
        Codec::BROTLI => "brotli",
        Codec::ZSTD => "zstd",
        Codec::LZ4 | Codec::LZ4_RAW => "LZ4",
        Codec::LZO => "LZO",
    }
}

fn too_large() -> String {
    format!("a page of more than {} MiB", LARGEST_PAGE >> 20)
}

fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    from.take(LARGEST_PAGE as u64 + 1).read_to_end(&mut out)?;
    if out.len() > LARGEST_PAGE { Err(io::Error::other(too_large())) } else { Ok(out) }
}

/// A bare block does not say how long it becomes: larger and larger room is tried. One byte cannot become more than 255.
fn lz4_block(compressed: &[u8]) -> Option<Vec<u8>> {
    let most = compressed.len().saturating_mul(255).min(LARGEST_PAGE);
    let mut room = compressed.len().saturating_mul(4).clamp(1024, LARGEST_PAGE);
    loop {
        match lz4_flex::block::decompress(compressed, room) {
            Ok(out) => return Some(out),
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => {
                room = room.saturating_mul(4).min(most);
            }
            Err(_) => return None,
        }
    }
}

/// Hadoop's form: frames of `[bytes after][bytes before][block]`, both numbers with the high byte first.
fn lz4_hadoop(mut compressed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !compressed.is_empty() {
        let (plain, rest) = compressed.split_first_chunk()?;
        let (packed, rest) = rest.split_first_chunk()?;
        let (plain, packed) = (u32::from_be_bytes(*plain) as usize, u32::from_be_bytes(*packed) as usize);
        if out.len().saturating_add(plain) > LARGEST_PAGE {
            return None;
        }
        let block = rest.get(..packed)?;
        let piece = lz4_flex::block::decompress(block, plain).ok()?;
        if piece.len() != plain {
            return None;
        }
        out.extend_from_slice(&piece);
        compressed = &rest[packed..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_grow_much_are_read() {
        let plain = vec![7u8; 1 << 20];
        let block = lz4_flex::block::compress(&plain);
        assert!(block.len() < plain.len() / 200);
        assert_eq!(decompress(Codec::LZ4_RAW, &block).unwrap(), plain);
        let mut hadoop = (plain.len() as u32).to_be_bytes().to_vec();
        hadoop.extend((block.len() as u32).to_be_bytes());
        hadoop.extend(&block);
        assert_eq!(decompress(Codec::LZ4, &hadoop).unwrap(), plain);
        assert_eq!(decompress(Codec::LZ4, &block).unwrap(), plain);
    }

    #[test]
    fn bombs_and_damage_are_errors() {
        // Snappy writes the length in front: five bytes that promise 4 GB.
        let error = decompress(Codec::SNAPPY, &[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap_err();
        assert!(error.contains("128 MiB"), "{error}");
        let codecs = [Codec::SNAPPY, Codec::GZIP, Codec::BROTLI, Codec::ZSTD, Codec::LZ4, Codec::LZ4_RAW];
        for codec in codecs {
            let error = decompress(codec, b"\xf0certainly no compressed data at all").unwrap_err();
            assert!(error.starts_with(&format!("damaged {} data", name(codec))), "{error}");
        }
        let error = decompress(Codec::LZO, b"").unwrap_err();
        assert!(error.contains("LZO are not read; write the file again"), "{error}");
    }
}
