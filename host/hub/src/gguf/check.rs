//! A walk over a GGUF header before the library parses it: what the library would panic on, allocate for or silently
//! overwrite (an alignment of zero, overflowing shapes, repeated names) is refused here.

use std::collections::HashSet;

const MAGIC: &[u8] = b"GGUF";

/// Walks the header and returns the tensor names in the file's order.
pub(super) fn check(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(4)? != MAGIC {
        return Err("it does not start with `GGUF`".into());
    }
    let version = reader.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("it is version {version}; 2 and 3 are known"));
    }
    let tensors = reader.u64()?;
    let entries = reader.u64()?;
    let mut keys = HashSet::new();
    for _ in 0..entries {
        let key = reader.string()?;
        let kind = reader.u32()?;
        if key == b"general.alignment" {
            let start = reader.at;
            reader.skip_value(kind, 0)?;
            let alignment = reader.bytes[start..reader.at].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            if kind > 5 || !alignment.is_power_of_two() || alignment > 1 << 20 {
                return Err(format!("`general.alignment` is {alignment}, which is no power of two"));
            }
        } else {
            reader.skip_value(kind, 0)?;
        }
        if !keys.insert(key) {
            return Err(format!("metadata `{}` is there twice", String::from_utf8_lossy(key)));
        }
    }
    let mut names = HashSet::new();
    let mut order = Vec::new();
    for _ in 0..tensors {
        let name = String::from_utf8(reader.string()?.to_vec()).map_err(|_| "a tensor name is not UTF-8")?;
        let dimensions = reader.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(format!("tensor `{name}` has {dimensions} dimensions"));
        }
        let mut elements = 1usize;
        for _ in 0..dimensions {
            let size = usize::try_from(reader.u64()?).map_err(|e| e.to_string())?;
            // 2^56 elements leave room for the multiplication by an element's size.
            elements = elements
                .checked_mul(size)
                .filter(|&n| n > 0 && n < 1 << 56)
                .ok_or_else(|| format!("tensor `{name}` has an impossible shape"))?;
        }
        reader.take(4 + 8)?; // type and offset
        if !names.insert(name.clone()) {
            return Err(format!("tensor `{name}` is there twice"));
        }
        order.push(name);
    }
    Ok(order)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("it ends inside its header, after {} bytes", self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    fn string(&mut self) -> Result<&'a [u8], String> {
        let length = usize::try_from(self.u64()?).map_err(|e| e.to_string())?;
        self.take(length)
    }

    fn skip_value(&mut self, kind: u32, depth: usize) -> Result<(), String> {
        match kind {
            0 | 1 | 7 => self.take(1).map(drop),
            2 | 3 => self.take(2).map(drop),
            4..=6 => self.take(4).map(drop),
            10..=12 => self.take(8).map(drop),
            8 => self.string().map(drop),
            9 if depth < 4 => {
                let kind = self.u32()?;
                let length = self.u64()?;
                for _ in 0..length {
                    self.skip_value(kind, depth + 1)?;
                }
                Ok(())
            }
            9 => Err("its metadata nests arrays too deeply".into()),
            other => Err(format!("its metadata has a value of unknown type {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(alignment: u32, dimension: u64) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(17u64.to_le_bytes());
        bytes.extend(b"general.alignment");
        bytes.extend(4u32.to_le_bytes());
        bytes.extend(alignment.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(b"t");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(dimension.to_le_bytes());
        bytes.extend(dimension.to_le_bytes());
        bytes.extend([0; 12]);
        bytes
    }

    #[test]
    fn hostile_headers_are_refused() {
        assert_eq!(check(&header(32, 8)).unwrap(), ["t"]);
        assert!(check(&header(0, 8)).unwrap_err().contains("alignment"));
        assert!(check(&header(32, u64::MAX)).unwrap_err().contains("impossible shape"));
        assert!(check(&header(32, 1 << 31)).unwrap_err().contains("impossible shape"));
        let whole = header(32, 8);
        for length in 0..whole.len() {
            check(&whole[..length]).unwrap_err();
        }
    }
}
