//! The pages of a column, decompressed here. The parquet crate reads their headers; it is told that they are not
//! compressed, so that its codecs, which trust the length in a header, are not used.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, CompressionCodec};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;

use crate::codec;
use crate::source::RangeFile;

/// Values of a page at most: levels that say a million times "nothing" take a few bytes.
const MOST_VALUES: u32 = 1 << 24;

pub(crate) struct Pages {
    inner: SerializedPageReader<RangeFile>,
    codec: CompressionCodec,
}

impl Pages {
    /// The pages of a column chunk whose places in the file were checked.
    pub(crate) fn new(file: Arc<RangeFile>, chunk: &ColumnChunkMetaData, rows: usize) -> Result<Self, String> {
        let codec = chunk.compression_codec();
        codec::check(codec)?;
        // Old writers put a zero, or the place of something else, where there is no dictionary.
        let dictionary = chunk.dictionary_page_offset().filter(|&at| at > 0 && at < chunk.data_page_offset());
        let plain = chunk.clone().into_builder();
        let plain = plain.set_compression(Compression::UNCOMPRESSED).set_dictionary_page_offset(dictionary).build();
        let inner = plain.and_then(|plain| SerializedPageReader::new(file, &plain, rows, None));
        Ok(Self { inner: inner.map_err(|error| error.to_string())?, codec })
    }

    /// The next page, decompressed.
    pub(crate) fn next(&mut self) -> Result<Option<Page>, String> {
        let page = self.inner.get_next_page().map_err(|error| error.to_string())?;
        page.map(|page| self.plain(page)).transpose()
    }

    fn decompress(&self, compressed: &[u8]) -> Result<Bytes, String> {
        codec::decompress(self.codec, compressed).map(Bytes::from)
    }

    fn plain(&self, mut page: Page) -> Result<Page, String> {
        if page.num_values() > MOST_VALUES {
            return Err(format!("a page of {} values", page.num_values()));
        }
        if self.codec == CompressionCodec::UNCOMPRESSED {
            return Ok(page);
        }
        match &mut page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => *buf = self.decompress(buf)?,
            Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, is_compressed, .. } => {
                let levels = def_levels_byte_len.saturating_add(*rep_levels_byte_len) as usize;
                let values = buf.get(levels..).ok_or("a page that is shorter than its levels")?;
                // Nothing was compressed where a page holds no value.
                if *is_compressed && !values.is_empty() {
                    *buf = Bytes::from([&buf[..levels], &self.decompress(values)?].concat());
                }
            }
        }
        Ok(page)
    }
}
