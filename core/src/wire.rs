//! Bytes in and out: LEB128 varints and length-prefixed strings, the alphabet of frames, rows and the host ABI.
//!
//! Reading never panics and never allocates more than the input holds; a varint that is longer than needed, or
//! larger than its type, is malformed, so that every value has exactly one encoding.

use alloc::vec::Vec;

/// The bytes do not spell what was expected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed)?;
        self.rest = rest;
        Ok(first)
    }

    /// An unsigned LEB128 varint, at most ten bytes.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.long(first)
    }

    /// The rest of a varint that takes more than its first byte.
    fn long(&mut self, first: u8) -> Result<u64, Malformed> {
        let mut value = u64::from(first & 0x7f);
        for index in 1..10u32 {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if index == 9 && byte > 1 {
                return Err(Malformed);
            }
            value |= bits << (7 * index);
            if byte < 0x80 {
                return if byte == 0 { Err(Malformed) } else { Ok(value) };
            }
        }
        Err(Malformed)
    }

    /// A varint that fits 32 bits.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.u64()?).map_err(|_| Malformed)
    }

    /// A number that is counted up from, like an offset or a size: below 2^53, which nobody reaches by counting, so that
    /// what is stored or imported cannot make a sum overflow.
    pub(crate) fn counted(&mut self) -> Result<u64, Malformed> {
        self.u64().and_then(|value| {
            if value < 1 << 53 {
                Ok(value)
            } else {
                Err(Malformed)
            }
        })
    }

    /// Exactly `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A varint length and that many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u64()?).map_err(|_| Malformed)?;
        self.take(length)
    }

    /// Length-prefixed UTF-8.
    pub fn str(&mut self) -> Result<&'a str, Malformed> {
        core::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// Succeeds only when everything has been read.
    pub const fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

/// Appends what a [`Reader`] reads.
pub trait Put {
    /// Appends a varint.
    fn put_u64(&mut self, value: u64);
    /// Appends a length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    #[inline]
    fn put_u64(&mut self, value: u64) {
        if value < 0x80 {
            self.push(value as u8);
        } else {
            put_long(value, self);
        }
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u64(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// Appends a varint that takes more than one byte.
fn put_long(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends what `body` appends, with its length in front. `size_hint` is about how long that is: as many bytes are
/// kept for the length as that takes, and where it was wrong, the body is moved.
#[inline]
pub(crate) fn put_framed(out: &mut Vec<u8>, size_hint: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    let kept = varint_len(size_hint as u64);
    out.resize(start + kept, 0);
    body(out);
    let length = out.len() - start - kept;
    let width = varint_len(length as u64);
    if width != kept {
        let from = start + kept;
        out.resize(out.len().max(start + width + length), 0);
        out.copy_within(from..from + length, start + width);
        out.truncate(start + width + length);
    }
    let mut rest = length;
    for byte in &mut out[start..start + width - 1] {
        *byte = (rest as u8) | 0x80;
        rest >>= 7;
    }
    out[start + width - 1] = rest as u8;
}

/// How many bytes the varint of `value` takes.
pub(crate) const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_width() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                bytes.put_u64(value);
                assert_eq!(bytes.len(), varint_len(value));
                let mut reader = Reader::new(&bytes);
                assert_eq!(reader.u64(), Ok(value));
                assert!(reader.is_empty());
            }
        }
    }

    #[test]
    fn a_varint_has_one_spelling() {
        assert_eq!(Reader::new(&[0x80, 0x00]).u64(), Err(Malformed));
        assert_eq!(Reader::new(&[0xff; 11]).u64(), Err(Malformed));
        assert_eq!(Reader::new(&[0x80]).u64(), Err(Malformed));
        let above = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(Reader::new(&above).u64(), Err(Malformed));
        assert_eq!(
            Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).u32(),
            Err(Malformed)
        );
    }

    #[test]
    fn a_frame_has_its_length_in_front_however_long_it_is() {
        let lengths = [0_usize, 1, 127, 128, 129, 16_383, 16_384, 70_000];
        for length in lengths {
            for hint in lengths {
                let mut out = Vec::from(*b"before");
                put_framed(&mut out, hint, |out| {
                    out.extend((0..length).map(|index| index as u8));
                });
                let mut reader = Reader::new(&out[6..]);
                let body = reader.bytes().unwrap();
                assert_eq!(body.len(), length, "expected {hint}");
                assert!(
                    body.iter()
                        .enumerate()
                        .all(|(index, byte)| *byte == index as u8)
                );
                assert!(reader.is_empty());
            }
        }
    }

    #[test]
    fn a_length_beyond_the_input_is_malformed() {
        assert_eq!(Reader::new(&[5, b'a']).bytes(), Err(Malformed));
        assert_eq!(Reader::new(&[1, 0xff]).str(), Err(Malformed));
    }
}
