//! The types that a frame's fields may have, and how each is spelt in binary.

use core::marker::PhantomData;

use alloc::vec::Vec;

use crate::wire::{Malformed, Put, Reader, put_framed};

/// A type that a field may have.
pub trait Field<'a>: Sized {
    /// What the JSON transcoder needs to know.
    const KIND: FieldKind;
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads the value.
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// The spelling of a field, for the JSON transcoder.
#[derive(Clone, Copy, Debug)]
pub enum FieldKind {
    /// A varint; a JSON integer.
    Int,
    /// The same, of at most 32 bits.
    Int32,
    /// One byte, 0 or 1; a JSON boolean.
    Flag,
    /// A length and UTF-8; a JSON string.
    Str,
    /// A length and bytes; a JSON string, or base64 under the name with `_base64` where it is not UTF-8.
    Bytes,
    /// A length and (name value)*; a JSON array of two-element arrays.
    Headers,
    /// A length and strings; a JSON array of strings.
    Strings,
    /// A length and length-prefixed items; a JSON array of objects.
    List(&'static Layout),
}

/// A field's name and type.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// The JSON member, and the name in the specification.
    pub name: &'static str,
    /// How it is spelt.
    pub kind: FieldKind,
}

/// The fields of a frame or of an item in a list.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The required fields, in their order on the wire.
    pub required: &'static [FieldSpec],
    /// The optional fields, by rising tag; each is spelt tag, length, value.
    pub optional: &'static [(u8, FieldSpec)],
}

impl<'a> Field<'a> for u64 {
    const KIND: FieldKind = FieldKind::Int;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(*self);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.u64()
    }
}

impl<'a> Field<'a> for u32 {
    const KIND: FieldKind = FieldKind::Int32;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64((*self).into());
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.u32()
    }
}

impl<'a> Field<'a> for bool {
    const KIND: FieldKind = FieldKind::Flag;
    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Field<'a> for &'a str {
    const KIND: FieldKind = FieldKind::Str;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.as_bytes());
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.str()
    }
}

impl<'a> Field<'a> for &'a [u8] {
    const KIND: FieldKind = FieldKind::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        reader.bytes()
    }
}

/// Ordered pairs of strings, known to be well formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut reader = Reader::new(self.0);
        core::iter::from_fn(move || Some((reader.str().ok()?, reader.str().ok()?)))
    }

    /// How many bytes the pairs take, lengths included.
    pub const fn size_bytes(&self) -> usize {
        self.0.len()
    }

    /// Reads what [`Headers::encode`] wrote.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(encoded);
        while !reader.is_empty() {
            reader.str()?;
            reader.str()?;
        }
        Ok(Self(encoded))
    }

    /// Spells pairs as a field's value.
    pub fn encode<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in pairs {
            out.put_bytes(name.as_bytes());
            out.put_bytes(value.as_bytes());
        }
        out
    }
}

impl<'a> Field<'a> for Headers<'a> {
    const KIND: FieldKind = FieldKind::Headers;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.0);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Self::parse(reader.bytes()?)
    }
}

/// Strings one after the other, known to be well formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// The strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.0);
        core::iter::from_fn(move || reader.str().ok())
    }

    /// Reads what [`Strings::encode`] wrote.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(encoded);
        while !reader.is_empty() {
            reader.str()?;
        }
        Ok(Self(encoded))
    }

    /// Spells strings as a field's value.
    pub fn encode<'p>(strings: impl IntoIterator<Item = &'p str>) -> Vec<u8> {
        let mut out = Vec::new();
        for string in strings {
            out.put_bytes(string.as_bytes());
        }
        out
    }
}

impl<'a> Field<'a> for Strings<'a> {
    const KIND: FieldKind = FieldKind::Strings;
    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.0);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Self::parse(reader.bytes()?)
    }
}

/// An item of a [`List`].
pub trait Item<'a>: Sized {
    /// Its fields.
    const LAYOUT: Layout;
    /// Appends the fields.
    fn put_fields(&self, out: &mut Vec<u8>);
    /// Reads the fields to the end of the item.
    fn take_fields(reader: &mut Reader<'a>) -> Result<Self, Malformed>;
}

/// Items one after the other, each with its length in front. Items are read when they are asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct List<'a, T> {
    encoded: &'a [u8],
    item: PhantomData<fn() -> T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<'a, T: Item<'a>> List<'a, T> {
    /// The list whose items were appended with [`List::push`].
    pub const fn new(encoded: &'a [u8]) -> Self {
        Self {
            encoded,
            item: PhantomData,
        }
    }

    /// Appends an item to a list's bytes.
    pub fn push(encoded: &mut Vec<u8>, item: &T) {
        put_framed(encoded, 0, |out| item.put_fields(out));
    }

    /// The items, in order; after a malformed one, nothing.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, Malformed>> + use<'a, T> {
        let mut reader = Reader::new(self.encoded);
        core::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            let item = reader
                .bytes()
                .and_then(|bytes| T::take_fields(&mut Reader::new(bytes)));
            if item.is_err() {
                reader = Reader::new(&[]);
            }
            Some(item)
        })
    }
}

impl<'a, T: Item<'a>> Field<'a> for List<'a, T> {
    const KIND: FieldKind = FieldKind::List(&T::LAYOUT);
    fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(self.encoded);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Self::new(reader.bytes()?))
    }
}

/// Appends an optional field that is there.
pub(super) fn put_optional<'a, T: Field<'a>>(tag: u8, value: &T, out: &mut Vec<u8>) {
    out.push(tag);
    put_framed(out, 0, |out| value.put(out));
}

/// Reads the optional field `tag`, passing over unknown ones with lower tags. `last` is the tag read before.
pub(super) fn take_optional<'a, T: Field<'a>>(
    tag: u8,
    last: &mut u8,
    reader: &mut Reader<'a>,
) -> Result<Option<T>, Malformed> {
    while let Some(&next) = reader.rest().first() {
        if next <= *last {
            return Err(Malformed);
        }
        if next > tag {
            break;
        }
        reader.u8()?;
        *last = next;
        let bytes = reader.bytes()?;
        if next == tag {
            let mut value = Reader::new(bytes);
            let taken = T::take(&mut value)?;
            value.end()?;
            return Ok(Some(taken));
        }
    }
    Ok(None)
}

/// Passes over optional fields that this version does not know.
pub(super) fn skip_optionals(mut last: u8, reader: &mut Reader<'_>) -> Result<(), Malformed> {
    while !reader.is_empty() {
        let tag = reader.u8()?;
        if tag <= last {
            return Err(Malformed);
        }
        last = tag;
        reader.bytes()?;
    }
    Ok(())
}
