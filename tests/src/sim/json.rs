//! The JSON encoding, written down once more from the table of frames, so that the broker's own transcoder is held
//! against another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dunlin_core::frame::{Command, FieldKind, Headers, Layout, Reply, Strings};
use dunlin_core::{Put as _, Reader};
use serde_json::{Map, Value, json};

/// A command's frame as a line of JSON.
pub(super) fn line_of(frame: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(frame);
    let body = reader.bytes().expect("the client's own frames are sound");
    let (kind, fields) = body.split_first().expect("a frame has a kind");
    let (_, name, layout) = Command::LAYOUTS
        .iter()
        .find(|(other, _, _)| other == kind)
        .expect("the client's own frames are known");
    let mut object = Map::new();
    object.insert("type".to_owned(), json!(name));
    put_members(layout, &mut Reader::new(fields), &mut object);
    let mut line = Value::Object(object).to_string().into_bytes();
    line.push(b'\n');
    line
}

fn put_members(layout: &Layout, reader: &mut Reader<'_>, object: &mut Map<String, Value>) {
    for field in layout.required {
        put_member(field.name, &field.kind, reader, object);
    }
    while !reader.is_empty() {
        let tag = reader.u8().expect("a tag");
        let mut value = Reader::new(reader.bytes().expect("a value"));
        let (_, field) = layout
            .optional
            .iter()
            .find(|(other, _)| *other == tag)
            .expect("a known tag");
        put_member(field.name, &field.kind, &mut value, object);
    }
}

fn put_member(
    name: &str,
    kind: &FieldKind,
    reader: &mut Reader<'_>,
    object: &mut Map<String, Value>,
) {
    let sound = "the client's own frames are sound";
    let value = match kind {
        FieldKind::Int | FieldKind::Int32 => json!(reader.u64().expect(sound)),
        FieldKind::Flag => json!(reader.u8().expect(sound) == 1),
        FieldKind::Str => json!(reader.str().expect(sound)),
        FieldKind::Bytes => {
            let bytes = reader.bytes().expect(sound);
            match core::str::from_utf8(bytes) {
                Ok(text) => json!(text),
                Err(_) => {
                    object.insert(format!("{name}_base64"), json!(STANDARD.encode(bytes)));
                    return;
                }
            }
        }
        FieldKind::Headers => {
            let headers = Headers::parse(reader.bytes().expect(sound)).expect(sound);
            json!(
                headers
                    .iter()
                    .map(|(name, value)| json!([name, value]))
                    .collect::<Vec<_>>()
            )
        }
        FieldKind::Strings => {
            let strings = Strings::parse(reader.bytes().expect(sound)).expect(sound);
            json!(strings.iter().collect::<Vec<_>>())
        }
        FieldKind::List(layout) => {
            let mut items = Reader::new(reader.bytes().expect(sound));
            let mut list = Vec::new();
            while !items.is_empty() {
                let mut item = Map::new();
                put_members(
                    layout,
                    &mut Reader::new(items.bytes().expect(sound)),
                    &mut item,
                );
                list.push(Value::Object(item));
            }
            Value::Array(list)
        }
    };
    object.insert(name.to_owned(), value);
}

/// The frames of a message from the broker, in binary, without their lengths.
pub(super) fn frames_of(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut frames = Vec::new();
    for line in bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let text = || String::from_utf8_lossy(line).into_owned();
        let value: Value =
            serde_json::from_slice(line).map_err(|error| format!("{error} in {}", text()))?;
        let name = value["type"]
            .as_str()
            .ok_or_else(|| format!("no type in {}", text()))?;
        let (kind, _, layout) = Reply::LAYOUTS
            .iter()
            .find(|(_, other, _)| *other == name)
            .ok_or_else(|| format!("an unknown type in {}", text()))?;
        let mut frame = vec![*kind];
        take_members(layout, &value, 1, &mut frame)
            .map_err(|field| format!("\"{field}\" is wrong in {}", text()))?;
        frames.push(frame);
    }
    Ok(frames)
}

/// Appends the fields of an object; `extra` counts its members that are no fields.
fn take_members(
    layout: &Layout,
    value: &Value,
    extra: usize,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let object = value.as_object().ok_or("object")?;
    let mut used = extra;
    for field in layout.required {
        used += 1;
        take_member(field.name, &field.kind, object, out)?;
    }
    for (tag, field) in layout.optional {
        if object.contains_key(field.name) || object.contains_key(&format!("{}_base64", field.name))
        {
            used += 1;
            let mut bytes = Vec::new();
            take_member(field.name, &field.kind, object, &mut bytes)?;
            out.push(*tag);
            out.put_bytes(&bytes);
        }
    }
    if used == object.len() {
        Ok(())
    } else {
        Err("a member that is no field".to_owned())
    }
}

fn take_member(
    name: &str,
    kind: &FieldKind,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let wrong = || name.to_owned();
    let value = object.get(name);
    match kind {
        FieldKind::Int | FieldKind::Int32 => {
            out.put_u64(value.and_then(Value::as_u64).ok_or_else(wrong)?)
        }
        FieldKind::Flag => out.push(value.and_then(Value::as_bool).ok_or_else(wrong)?.into()),
        FieldKind::Str => {
            out.put_bytes(value.and_then(Value::as_str).ok_or_else(wrong)?.as_bytes())
        }
        FieldKind::Bytes => match value {
            Some(text) => out.put_bytes(text.as_str().ok_or_else(wrong)?.as_bytes()),
            None => {
                let text = object
                    .get(&format!("{name}_base64"))
                    .and_then(Value::as_str)
                    .ok_or_else(wrong)?;
                out.put_bytes(&STANDARD.decode(text).map_err(|_| wrong())?);
            }
        },
        FieldKind::Headers => {
            let mut bytes = Vec::new();
            for pair in value.and_then(Value::as_array).ok_or_else(wrong)? {
                for part in 0..2 {
                    bytes.put_bytes(pair[part].as_str().ok_or_else(wrong)?.as_bytes());
                }
            }
            out.put_bytes(&bytes);
        }
        FieldKind::Strings => {
            let mut bytes = Vec::new();
            for text in value.and_then(Value::as_array).ok_or_else(wrong)? {
                bytes.put_bytes(text.as_str().ok_or_else(wrong)?.as_bytes());
            }
            out.put_bytes(&bytes);
        }
        FieldKind::List(layout) => {
            let mut bytes = Vec::new();
            for item in value.and_then(Value::as_array).ok_or_else(wrong)? {
                let mut fields = Vec::new();
                take_members(layout, item, 0, &mut fields)?;
                bytes.put_bytes(&fields);
            }
            out.put_bytes(&bytes);
        }
    }
    Ok(())
}
