//! The JSON encoding: one object a line, transcoded to and from the binary encoding by the frame layouts, so that
//! both always say the same thing. JSON is for people and `curl`; what it costs is not on the fast path.
//!
//! The parser is our own because the guest must stay small: it knows objects, arrays, strings, booleans and
//! unsigned integers, which is all that frames and configuration have. Nesting and the number of values are bounded.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::field::{FieldKind, FieldSpec, Layout};
use crate::wire::{Malformed, Put, Reader};

/// The deepest nesting of arrays and objects.
const DEPTH_MAX: u32 = 6;
/// The most values in one text.
const VALUES_MAX: u32 = 131_072;

/// The most members of one object.
const MEMBERS_MAX: usize = 128;

/// A parsed JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number that is an integer from 0 to 2^64-1.
    Int(u64),
    /// Any other number.
    OtherNumber,
    /// A string.
    Str(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object, members in their order.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// Parses a whole text; the error says what is wrong and where.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut parser = Parser {
            text,
            at: 0,
            values: 0,
        };
        let value = parser.value(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.error("the text goes on after its end"));
        }
        Ok(value)
    }

    /// What kind of value this is, for messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::OtherNumber => "a number that is negative, fractional or too large",
            Self::Str(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// A value in the JSON of a payload, which may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number as it is spelt.
    Number(&'a str),
    /// A string.
    Str(Cow<'a, str>),
    /// An array or object.
    Composite,
}

/// The value that the parts of a JSON Pointer (RFC 6901) lead to, if there is one. Of members with one name the last
/// counts, as in JavaScript. What need not be read is passed over without a look at whether it is sound.
pub(crate) fn find<'a, 'p>(
    text: &'a str,
    pointer: impl IntoIterator<Item = &'p str>,
) -> Option<Found<'a>> {
    let mut parser = Parser {
        text,
        at: 0,
        values: 0,
    };
    for part in pointer {
        parser.space();
        let place = match parser.peek()? {
            b'{' => parser.member_place(part)?,
            b'[' => parser.item_place(part)?,
            _ => return None,
        };
        parser.at = place;
    }
    parser.space();
    match parser.peek()? {
        b'{' | b'[' => Some(Found::Composite),
        b'"' => parser.string().ok().map(Found::Str),
        _ => match parser.scalar() {
            "null" => Some(Found::Null),
            "true" => Some(Found::Bool(true)),
            "false" => Some(Found::Bool(false)),
            number => Some(Found::Number(number)),
        },
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    values: u32,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &str) -> String {
        format!("not JSON at byte {}: {what}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        self.space();
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(&format!("expected '{}'", byte as char)))
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, String> {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Err(self.error("nested too deeply or too many values"));
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::Str),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.error("expected a value")),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, String> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.error("expected a value"))
    }

    fn object(&mut self, depth: u32) -> Result<Value<'a>, String> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a member name"));
            }
            let name = self.string()?;
            if members.len() == MEMBERS_MAX {
                return Err(self.error("an object has too many members"));
            }
            if members.iter().any(|(other, _)| *other == name) {
                return Err(self.error(&format!("the member \"{name}\" stands there twice")));
            }
            self.expect(b':')?;
            let value = self.value(depth + 1)?;
            members.push((name, value));
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect(b'}')?;
            return Ok(Value::Object(members));
        }
    }

    fn array(&mut self, depth: u32) -> Result<Value<'a>, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.peek() == Some(b',') {
                self.at += 1;
                continue;
            }
            self.expect(b']')?;
            return Ok(Value::Array(items));
        }
    }

    fn number(&mut self) -> Result<Value<'a>, String> {
        let start = self.at;
        while matches!(
            self.peek(),
            Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
        ) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        if digits.len() > 1
            && digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(self.error("a number begins with 0"));
        }
        Ok(digits.parse().map_or(Value::OtherNumber, Value::Int))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        self.at += 1;
        let start = self.at;
        let mut owned: Option<String> = None;
        loop {
            let Some(byte) = self.peek() else {
                return Err(self.error("a string has no end"));
            };
            match byte {
                b'"' => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(owned.map_or(Cow::Borrowed(plain), Cow::Owned));
                }
                b'\\' => {
                    let plain = &self.text[start..self.at];
                    let buffer = owned.get_or_insert_with(|| String::from(plain));
                    self.at += 1;
                    let unescaped = Self::escape(self.text, &mut self.at);
                    buffer.push(
                        unescaped.ok_or_else(|| self.error("an escape that JSON does not have"))?,
                    );
                }
                0x00..=0x1f => return Err(self.error("a control character in a string")),
                _ => {
                    let length = self.text[self.at..]
                        .chars()
                        .next()
                        .map_or(1, char::len_utf8);
                    if let Some(buffer) = &mut owned {
                        buffer.push_str(&self.text[self.at..self.at + length]);
                    }
                    self.at += length;
                }
            }
        }
    }

    /// Where the member of the object here begins that has this name.
    fn member_place(&mut self, name: &str) -> Option<usize> {
        let mut place = None;
        self.at += 1;
        self.space();
        while self.peek()? != b'}' {
            if self.peek()? != b'"' {
                return None;
            }
            let is_named = self.string().ok()? == name;
            self.expect(b':').ok()?;
            if is_named {
                place = Some(self.at);
            }
            self.skip()?;
            self.next_of(b'}')?;
        }
        place
    }

    /// Where the item of the array here begins that has this index.
    fn item_place(&mut self, index: &str) -> Option<usize> {
        let is_index = index == "0" || !index.starts_with(['0', '+']);
        let mut before: u32 = index.parse().ok().filter(|_| is_index)?;
        self.at += 1;
        self.space();
        while before > 0 && self.peek()? != b']' {
            self.skip()?;
            self.next_of(b']')?;
            before -= 1;
        }
        (self.peek()? != b']').then_some(self.at)
    }

    /// Goes on to the next value, or to the end of what it is in.
    fn next_of(&mut self, end: u8) -> Option<()> {
        self.space();
        if self.peek()? == b',' {
            self.at += 1;
            self.space();
            return (self.peek()? != end).then_some(());
        }
        (self.peek()? == end).then_some(())
    }

    /// Passes over a value, however deep it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0u32;
        loop {
            self.space();
            match self.peek()? {
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                b'"' => drop(self.string().ok()?),
                _ => {
                    if self.scalar().is_empty() {
                        return None;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// What stands here up to the next punctuation.
    fn scalar(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let is_end = |byte: u8| b" \t\n\r,:[]{}\"".contains(&byte);
        let length = rest.bytes().position(is_end).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn escape(text: &str, at: &mut usize) -> Option<char> {
        let byte = *text.as_bytes().get(*at)?;
        *at += 1;
        Some(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = Self::hex4(text, at)?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                let low = text
                    .get(*at..*at + 2)
                    .filter(|next| *next == "\\u")
                    .and_then(|_| {
                        *at += 2;
                        Self::hex4(text, at)
                    })?;
                let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + low);
            }
            _ => return None,
        })
    }

    fn hex4(text: &str, at: &mut usize) -> Option<u32> {
        let digits = text
            .get(*at..*at + 4)
            .filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        *at += 4;
        u32::from_str_radix(digits, 16).ok()
    }
}

/// Why a line is not a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The request that the line names, 0 if none.
    pub request: u64,
    /// Whether the line is sound but its `type` is not known.
    pub unknown_type: bool,
    /// What is wrong.
    pub message: String,
}

/// The frames of one direction, see [`super::frame::Command::LAYOUTS`].
pub type Layouts = &'static [(u8, &'static str, Layout)];

/// Appends the binary frame that a JSON line spells, its length in front.
pub fn json_to_frame(line: &str, layouts: Layouts, out: &mut Vec<u8>) -> Result<(), JsonError> {
    let fail = |request, message| JsonError {
        request,
        unknown_type: false,
        message,
    };
    let value = Value::parse(line).map_err(|message| fail(0, message))?;
    let Value::Object(members) = value else {
        return Err(fail(
            0,
            format!("a frame is an object, not {}", value.kind()),
        ));
    };
    let request = match member(&members, "request") {
        Some(Value::Int(request)) => *request,
        _ => 0,
    };
    let Some(Value::Str(name)) = member(&members, "type") else {
        return Err(fail(
            request,
            String::from("the frame lacks the string \"type\""),
        ));
    };
    let Some((kind, _, layout)) = layouts.iter().find(|(_, text, _)| text == name) else {
        let message = format!("unknown type \"{name}\"");
        return Err(JsonError {
            request,
            unknown_type: true,
            message,
        });
    };
    let mut body = [*kind].to_vec();
    put_members(&members, layout, &mut body)
        .map_err(|message| fail(request, format!("{name}: {message}")))?;
    out.put_bytes(&body);
    Ok(())
}

fn member<'v, 'a>(members: &'v [(Cow<'a, str>, Value<'a>)], name: &str) -> Option<&'v Value<'a>> {
    members
        .iter()
        .find(|(other, _)| other == name)
        .map(|(_, value)| value)
        .filter(|value| **value != Value::Null)
}

fn put_members(
    members: &[(Cow<'_, str>, Value<'_>)],
    layout: &Layout,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    for spec in layout.required {
        if !put_member(members, spec, out)? {
            return Err(format!("lacks \"{}\"", spec.name));
        }
    }
    let mut value = Vec::new();
    for (tag, spec) in layout.optional {
        value.clear();
        if put_member(members, spec, &mut value)? {
            out.push(*tag);
            out.put_bytes(&value);
        }
    }
    Ok(())
}

/// Appends the member's value; false if there is none.
fn put_member(
    members: &[(Cow<'_, str>, Value<'_>)],
    spec: &FieldSpec,
    out: &mut Vec<u8>,
) -> Result<bool, String> {
    let Some(value) = member(members, spec.name) else {
        if matches!(spec.kind, FieldKind::Bytes) {
            let name = format!("{}_base64", spec.name);
            let Some(value) = member(members, &name) else {
                return Ok(false);
            };
            let Value::Str(text) = value else {
                return Err(format!("\"{name}\" must be a string, not {}", value.kind()));
            };
            let bytes = BASE64
                .decode(text.as_bytes())
                .map_err(|_| format!("\"{name}\" is not base64"))?;
            out.put_bytes(&bytes);
            return Ok(true);
        }
        return Ok(false);
    };
    let wrong = |wanted: &str| {
        Err(format!(
            "\"{}\" must be {wanted}, not {}",
            spec.name,
            value.kind()
        ))
    };
    match (spec.kind, value) {
        (FieldKind::Int32, Value::Int(value)) if *value > u32::MAX.into() => {
            let (name, max) = (spec.name, u32::MAX);
            return Err(format!("\"{name}\" must be from 0 to {max}, not {value}"));
        }
        (FieldKind::Int | FieldKind::Int32, Value::Int(value)) => out.put_u64(*value),
        (FieldKind::Int | FieldKind::Int32, _) => return wrong("an integer from 0"),
        (FieldKind::Flag, Value::Bool(value)) => out.push((*value).into()),
        (FieldKind::Flag, _) => return wrong("a boolean"),
        (FieldKind::Str | FieldKind::Bytes, Value::Str(text)) => out.put_bytes(text.as_bytes()),
        (FieldKind::Str | FieldKind::Bytes, _) => return wrong("a string"),
        (FieldKind::Headers, Value::Array(pairs)) => {
            let mut encoded = Vec::new();
            for pair in pairs {
                let Value::Array(pair) = pair else {
                    return wrong("an array of [name, value] pairs");
                };
                let [Value::Str(name), Value::Str(text)] = pair.as_slice() else {
                    return wrong("an array of [name, value] pairs of strings");
                };
                encoded.put_bytes(name.as_bytes());
                encoded.put_bytes(text.as_bytes());
            }
            out.put_bytes(&encoded);
        }
        (FieldKind::Headers, _) => return wrong("an array of [name, value] pairs"),
        (FieldKind::Strings, Value::Array(items)) => {
            let mut encoded = Vec::new();
            for item in items {
                let Value::Str(text) = item else {
                    return wrong("an array of strings");
                };
                encoded.put_bytes(text.as_bytes());
            }
            out.put_bytes(&encoded);
        }
        (FieldKind::Strings, _) => return wrong("an array of strings"),
        (FieldKind::List(layout), Value::Array(items)) => {
            let mut encoded = Vec::new();
            let mut fields = Vec::new();
            for (index, item) in items.iter().enumerate() {
                let Value::Object(members) = item else {
                    return wrong("an array of objects");
                };
                fields.clear();
                put_members(members, layout, &mut fields)
                    .map_err(|message| format!("\"{}\" item {index}: {message}", spec.name))?;
                encoded.put_bytes(&fields);
            }
            out.put_bytes(&encoded);
        }
        (FieldKind::List(_), _) => return wrong("an array of objects"),
    }
    Ok(true)
}

/// Appends the JSON line that says what a binary frame (without its length) says, with the newline.
pub fn frame_to_json(frame: &[u8], layouts: Layouts, out: &mut Vec<u8>) -> Result<(), Malformed> {
    let mut reader = Reader::new(frame);
    let kind = reader.u8()?;
    let (_, name, layout) = layouts
        .iter()
        .find(|(other, _, _)| *other == kind)
        .ok_or(Malformed)?;
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    put_json_members(layout, 0, &mut reader, out)?;
    out.extend_from_slice(b"}\n");
    Ok(())
}

/// Appends `,"name":value` for the fields that `reader` holds, from the required field `first` on.
pub fn put_json_members(
    layout: &Layout,
    first: usize,
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    for spec in &layout.required[first..] {
        put_json_member(spec, reader, out)?;
    }
    while !reader.is_empty() {
        let tag = reader.u8()?;
        let mut value = Reader::new(reader.bytes()?);
        if let Some((_, spec)) = layout.optional.iter().find(|(other, _)| *other == tag) {
            put_json_member(spec, &mut value, out)?;
            value.end()?;
        }
    }
    Ok(())
}

fn put_json_member(
    spec: &FieldSpec,
    reader: &mut Reader<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Malformed> {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(spec.name.as_bytes());
    match spec.kind {
        FieldKind::Int | FieldKind::Int32 => {
            out.extend_from_slice(b"\":");
            put_json_int(reader.u64()?, out);
        }
        FieldKind::Flag => {
            out.extend_from_slice(if reader.u8()? == 0 {
                b"\":false"
            } else {
                b"\":true"
            });
        }
        FieldKind::Str => {
            out.extend_from_slice(b"\":");
            put_json_str(reader.str()?, out);
        }
        FieldKind::Bytes => {
            let bytes = reader.bytes()?;
            if let Ok(text) = core::str::from_utf8(bytes) {
                out.extend_from_slice(b"\":");
                put_json_str(text, out);
            } else {
                out.extend_from_slice(b"_base64\":\"");
                out.extend_from_slice(BASE64.encode(bytes).as_bytes());
                out.push(b'"');
            }
        }
        FieldKind::Headers => {
            let mut pairs = Reader::new(reader.bytes()?);
            put_json_array(out, |out| {
                if pairs.is_empty() {
                    return Ok(false);
                }
                out.push(b'[');
                put_json_str(pairs.str()?, out);
                out.push(b',');
                put_json_str(pairs.str()?, out);
                out.push(b']');
                Ok(true)
            })?;
        }
        FieldKind::Strings => {
            let mut strings = Reader::new(reader.bytes()?);
            put_json_array(out, |out| {
                if strings.is_empty() {
                    return Ok(false);
                }
                put_json_str(strings.str()?, out);
                Ok(true)
            })?;
        }
        FieldKind::List(layout) => {
            let mut items = Reader::new(reader.bytes()?);
            put_json_array(out, |out| {
                if items.is_empty() {
                    return Ok(false);
                }
                let start = out.len();
                put_json_members(layout, 0, &mut Reader::new(items.bytes()?), out)?;
                match out.get_mut(start) {
                    Some(comma) => *comma = b'{',
                    None => out.push(b'{'),
                }
                out.push(b'}');
                Ok(true)
            })?;
        }
    }
    Ok(())
}

/// Appends `":[…]`, with the items that `item` appends until it returns false.
fn put_json_array(
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut Vec<u8>) -> Result<bool, Malformed>,
) -> Result<(), Malformed> {
    out.extend_from_slice(b"\":[");
    let start = out.len();
    loop {
        let before = out.len();
        if before > start {
            out.push(b',');
        }
        if !item(out)? {
            out.truncate(before);
            break;
        }
    }
    out.push(b']');
    Ok(())
}

/// Appends a JSON integer.
pub(crate) fn put_json_int(mut value: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + (value % 10) as u8);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out[start..].reverse();
}

/// Appends a JSON string with its quotes.
pub(crate) fn put_json_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x00..=0x1f => {
                out.extend_from_slice(b"\\u00");
                for digit in [byte >> 4, byte & 0xf] {
                    out.push(if digit < 10 {
                        b'0' + digit
                    } else {
                        b'a' + digit - 10
                    });
                }
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Command, Reply};
    use super::*;
    use std::string::ToString;

    fn round_trip(line: &str, layouts: Layouts) -> String {
        let mut frame = Vec::new();
        json_to_frame(line, layouts, &mut frame).expect("the line is a frame");
        let mut out = Vec::new();
        frame_to_json(Reader::new(&frame).bytes().unwrap(), layouts, &mut out)
            .expect("the frame is sound");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_field_survives_both_ways() {
        for line in [
            "{\"type\":\"publish\",\"request\":7,\"topic\":\"a/b\",\"payload\":\"x\\n\\u0001\\\"\",\"key\":\"k\",\"headers\":[[\"a\",\"1\"],[\"a\",\"2\"]]}\n",
            "{\"type\":\"publish\",\"request\":1,\"topic\":\"a\",\"payload_base64\":\"/wA=\"}\n",
            "{\"type\":\"publish_batch\",\"request\":2,\"messages\":[{\"topic\":\"a\",\"payload\":\"\"},{\"topic\":\"b\",\"payload\":\"é\",\"ttl_ms\":5}]}\n",
            "{\"type\":\"publish_batch\",\"request\":2,\"messages\":[]}\n",
        ] {
            assert_eq!(round_trip(line, Command::LAYOUTS), line);
        }
        for line in [
            "{\"type\":\"receipt\",\"request\":1,\"partition\":0,\"offset\":18446744073709551615,\"sequence\":9,\"duplicate\":true}\n",
            "{\"type\":\"topics\",\"request\":1,\"topics\":[\"a\",\"b\"],\"more\":false}\n",
        ] {
            assert_eq!(round_trip(line, Reply::LAYOUTS), line);
        }
    }

    #[test]
    fn wrong_lines_are_told_what_is_wrong() {
        for (line, part) in [
            ("", "expected a value"),
            ("[]", "a frame is an object, not an array"),
            ("{\"request\":1}", "lacks the string \"type\""),
            ("{\"type\":\"fly\",\"request\":1}", "unknown type \"fly\""),
            ("{\"type\":\"ping\"}", "ping: lacks \"request\""),
            (
                "{\"type\":\"ping\",\"request\":-1}",
                "must be an integer from 0, not a number that is negative",
            ),
            ("{\"type\":\"ping\",\"request\":1.5}", "must be an integer"),
            (
                "{\"type\":\"ping\",\"request\":18446744073709551616}",
                "too large",
            ),
            ("{\"type\":\"ping\",\"request\":1,\"request\":2}", "twice"),
            (
                "{\"type\":\"ping\",\"request\":1} x",
                "goes on after its end",
            ),
            (
                "{\"type\":\"publish\",\"request\":1,\"topic\":\"a\",\"payload_base64\":\"?\"}",
                "is not base64",
            ),
            (
                "{\"type\":\"publish\",\"request\":1,\"topic\":\"a\",\"payload\":\"\\ud800\"}",
                "escape",
            ),
            (
                "{\"type\":\"publish\",\"request\":1,\"topic\":\"a\",\"payload\":\"\",\"headers\":[\"a\"]}",
                "pairs",
            ),
            (
                "{\"type\":\"publish_batch\",\"request\":1,\"messages\":[{\"topic\":\"a\"}]}",
                "item 0: lacks \"payload\"",
            ),
            ("{\"a\":[[[[[[[[1]]]]]]]]}", "nested too deeply"),
        ] {
            let error = json_to_frame(line, Command::LAYOUTS, &mut Vec::new()).unwrap_err();
            assert!(error.message.contains(part), "{line}: {}", error.message);
        }
    }

    #[test]
    fn surrogate_pairs_and_escapes_are_read() {
        assert_eq!(
            Value::parse("\"\\ud83d\\ude00\\/\\u00e9\""),
            Ok(Value::Str("😀/é".into()))
        );
        assert!(Value::parse("\"\\ud83dx\"").is_err());
        assert!(
            Value::parse("01")
                .unwrap_err()
                .to_string()
                .contains("begins with 0")
        );
    }

    #[test]
    fn pointers_lead_to_values_in_any_json() {
        let text = r#" {"a":{"b":[1,{"c":"x\n"},-2.5e3,[]]},"a/b":true, "n":null,"n":false,"":{"":"e"},
            "deep":[[[[[[[[[[["}]"]]]]]]]]]]],"after":7} "#;
        for (pointer, expected) in [
            (&["a", "b", "0"][..], Some(Found::Number("1"))),
            (&["a", "b", "1", "c"], Some(Found::Str("x\n".into()))),
            (&["a", "b", "2"], Some(Found::Number("-2.5e3"))),
            (&["a", "b", "3"], Some(Found::Composite)),
            (&["a/b"], Some(Found::Bool(true))),
            (&["n"], Some(Found::Bool(false))),
            (&["", ""], Some(Found::Str("e".into()))),
            (&["after"], Some(Found::Number("7"))),
            (&[], Some(Found::Composite)),
            (&["b"], None),
            (&["a", "b", "4"], None),
            (&["a", "b", "00"], None),
            (&["a", "b", "+1"], None),
            (&["a", "b", "-"], None),
            (&["after", "x"], None),
        ] {
            assert_eq!(find(text, pointer.iter().copied()), expected, "{pointer:?}");
        }
    }

    #[test]
    fn what_is_not_json_has_no_members() {
        let damaged = [
            "",
            " ",
            "{",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "{\"a\" 1}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":]}",
            "[1",
            "\u{1F600}",
            "{\"b\":{,\"a\":1}",
        ];
        for text in damaged {
            assert_eq!(find(text, ["a"]), None, "{text}");
        }
        for text in ["", "[", "[,1]", "[1,]", "{}"] {
            assert_eq!(find(text, ["1"]), None, "{text}");
        }
    }
}
