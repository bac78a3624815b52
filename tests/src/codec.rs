//! Frames as people write and read them: JSON lines, whatever encoding the connection speaks.

use dunlin_core::frame::{Command, Reply, frame_to_json, json_to_frame};
use dunlin_core::{Encoding, Reader};

/// The message that a client of this encoding sends for `frames`.
pub(crate) fn command_bytes(encoding: Encoding, frames: &[String]) -> Result<Vec<u8>, String> {
    match encoding {
        // As it was written, also if it is wrong.
        Encoding::Json => Ok(frames.join("\n").into_bytes()),
        Encoding::Binary => {
            let mut out = Vec::new();
            for frame in frames {
                json_to_frame(frame, Command::LAYOUTS, &mut out).map_err(|error| error.message)?;
            }
            Ok(out)
        }
    }
}

/// The frames of a message to a client of this encoding, a JSON line each.
pub(crate) fn reply_lines(encoding: Encoding, message: &[u8]) -> Result<Vec<String>, String> {
    match encoding {
        Encoding::Json => {
            let text = core::str::from_utf8(message).map_err(|_| "a JSON message is not UTF-8")?;
            let text = text
                .strip_suffix('\n')
                .ok_or_else(|| format!("a JSON message does not end with a newline: {text}"))?;
            Ok(text.split('\n').map(str::to_owned).collect())
        }
        Encoding::Binary => {
            let mut reader = Reader::new(message);
            let mut lines = Vec::new();
            while !reader.is_empty() {
                let wrong = |_| format!("not frames: {message:02x?}");
                let mut line = Vec::new();
                frame_to_json(reader.bytes().map_err(wrong)?, Reply::LAYOUTS, &mut line)
                    .map_err(wrong)?;
                line.pop();
                lines.push(String::from_utf8(line).map_err(|_| "a frame's JSON is not UTF-8")?);
            }
            Ok(lines)
        }
    }
}
