//! The pages of a column, decompressed here. The parquet crate reads their headers; it is told that they are not
//! compressed, so that its codecs, which trust the length in a header, are not used.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, CompressionCodec};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
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
    pub(crate) fn new(file: Arc<RangeFile>, chunk: &ColumnChunkMetaData, rows: usize) -> Result<Self> {
        let codec = chunk.compression_codec();
        codec::check(codec).map_err(ParquetError::General)?;
        // Old writers put a zero, or the place of something else, where there is no dictionary.
        let dictionary = chunk.dictionary_page_offset().filter(|&at| at > 0 && at < chunk.data_page_offset());
        let plain = chunk.clone().into_builder();
        let plain = plain.set_compression(Compression::UNCOMPRESSED).set_dictionary_page_offset(dictionary).build()?;
        Ok(Self { inner: SerializedPageReader::new(file, &plain, rows, None)?, codec })
    }

    fn decompress(&self, compressed: &[u8]) -> Result<Bytes> {
        codec::decompress(self.codec, compressed).map(Bytes::from).map_err(ParquetError::General)
    }

    fn plain(&self, page: Page) -> Result<Page> {
        if page.num_values() > MOST_VALUES {
            return Err(ParquetError::General(format!("a page of {} values", page.num_values())));
        }
        if self.codec == CompressionCodec::UNCOMPRESSED {
            return Ok(page);
        }
        Ok(match page {
            Page::DataPage { buf, num_values, encoding, def_level_encoding, rep_level_encoding, statistics } => {
                Page::DataPage {
                    buf: self.decompress(&buf)?,
                    num_values,
                    encoding,
                    def_level_encoding,
                    rep_level_encoding,
                    statistics,
                }
            }
            Page::DictionaryPage { buf, num_values, encoding, is_sorted } => {
                Page::DictionaryPage { buf: self.decompress(&buf)?, num_values, encoding, is_sorted }
            }
            Page::DataPageV2 {
                buf,
                num_values,
                encoding,
                num_nulls,
                num_rows,
                def_levels_byte_len,
                rep_levels_byte_len,
                is_compressed,
                statistics,
            } => {
                let buf = if is_compressed {
                    let levels = def_levels_byte_len as usize + rep_levels_byte_len as usize;
                    let values = buf
                        .get(levels..)
                        .ok_or_else(|| ParquetError::General("a page shorter than its levels".into()))?;
                    // Nothing was compressed where a page holds no value.
                    let values = if values.is_empty() { Bytes::new() } else { self.decompress(values)? };
                    Bytes::from([&buf[..levels], &values].concat())
                } else {
                    buf
                };
                Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding,
                    num_nulls,
                    num_rows,
                    def_levels_byte_len,
                    rep_levels_byte_len,
                    is_compressed: false,
                    statistics,
                }
            }
        })
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.get_next_page()?;
        page.map(|page| self.plain(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
