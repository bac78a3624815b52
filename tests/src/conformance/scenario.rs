//! Scenario files: one behaviour each, in lines that a person reads from top to bottom.
//!
//! ```text
//! # A protocol sentence: the first line of every file.
//! config {json}                            for the next start of the broker
//! seed N                                   the same; otherwise 1, and one more at every start
//! at MS                                    the time of what follows
//! connect ID json|binary NAMESPACE [RIGHT,RIGHT...] [user=NAME] [device=NAME] [ip=ADDRESS]
//! client ID json|binary NAMESPACE [...]    connects, says hello and ends the batch; what follows is not shown
//! send ID {json}                           a message with one frame; a binary connection gets it transcoded
//! and {json}                               one more frame in the same message
//! raw ID HEX                               a message of these bytes
//! disconnect ID
//! restored ID clean|unclean                after a start: this socket outlived the previous broker
//! seen ID [AT]
//! storage available|unavailable LATENCY_MS
//! drain
//! timeout
//! flush                                    ends the batch
//! hold                                     from here on, loads wait
//! release                                  answers all loads, and from here on each at once
//! release one                              answers the oldest load that waits
//! fail load                                answers it with a failure
//! sync                                     everything written is durable
//! restart                                  drops the broker and restores another one from the rows
//! crash                                    the same, from the rows that were durable
//! trap                                     the same as restart, after the engine really trapped
//! damage KEY [= HEX]                       spoils the value of a stored row, or puts another in its place
//! stats NAME NAME...                       shows these counters
//! > …                                      what follows from the line above
//! ```
//!
//! `{{TEXT N}}` stands for N times TEXT. A load is answered at once, in a batch of its own, unless loads are held.

use core::fmt;
use core::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use dunlin_core::{Claims, ConnectionId, Encoding, Rights};

/// The variable that makes the tests write what they see into the files, for people to review.
pub(crate) const UPDATE_VARIABLE: &str = "UPDATE_SCENARIOS";

/// A scenario file.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Where it lies.
    pub path: PathBuf,
    /// Its lines, without expectations.
    pub lines: Vec<Line>,
}

/// One line of a scenario file.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number in the file, from 1.
    pub number: usize,
    /// As it stands there.
    pub text: String,
    /// What it says; nothing in a comment, an empty line, or a line that belongs to the one above.
    pub action: Option<Action>,
    /// The lines below it that say what follows, without their `> `.
    pub expected: Vec<String>,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The configuration of the next start.
    Config(String),
    /// The seed of the next start.
    Seed(u64),
    /// The time.
    At(u64),
    /// A client comes.
    Connect(ConnectionId, Encoding, Claims, Vec<u8>),
    /// A client comes and is welcomed.
    Client(ConnectionId, Encoding, Claims, Vec<u8>),
    /// A message of frames.
    Send(ConnectionId, Vec<String>),
    /// A message of bytes.
    Raw(ConnectionId, Vec<u8>),
    /// A client goes.
    Disconnect(ConnectionId),
    /// A socket outlived the previous broker; whether cleanly.
    Restored(ConnectionId, bool),
    /// A sign of life.
    Seen(ConnectionId, Option<u64>),
    /// Whether the store is available, and its latency.
    Storage(bool, u32),
    /// The broker is to stop.
    Drain,
    /// The timer fires.
    Timeout,
    /// The batch ends.
    Flush,
    /// Loads wait.
    Hold,
    /// All loads are answered.
    Release,
    /// The oldest load is answered.
    ReleaseOne,
    /// The oldest load fails.
    FailLoad,
    /// What is written is durable.
    Sync,
    /// The broker is dropped and restored from all rows.
    Restart,
    /// The broker is dropped and restored from the durable rows.
    Crash,
    /// The engine traps and is replaced.
    Trap,
    /// A row, by its rendered key, is spoilt, or gets another value.
    Damage(String, Option<Vec<u8>>),
    /// Counters are shown.
    Stats(Vec<String>),
}

impl Action {
    /// Whether something can follow from it.
    fn has_effects(&self) -> bool {
        match self {
            Self::Flush | Self::Release | Self::ReleaseOne | Self::FailLoad => true,
            Self::Restart | Self::Crash | Self::Trap | Self::Stats(_) => true,
            Self::Config(_) | Self::Seed(_) | Self::At(_) | Self::Connect(..) => false,
            Self::Client(..) => false,
            Self::Send(..) | Self::Raw(..) | Self::Disconnect(_) | Self::Restored(..) => false,
            Self::Seen(..) | Self::Storage(..) | Self::Drain | Self::Timeout => false,
            Self::Hold | Self::Sync | Self::Damage(..) => false,
        }
    }

    /// Whether it waits for the end of the batch.
    fn is_input(&self) -> bool {
        match self {
            Self::Connect(..) | Self::Send(..) | Self::Raw(..) | Self::Disconnect(_) => true,
            Self::Restored(..) | Self::Seen(..) | Self::Storage(..) => true,
            Self::Drain | Self::Timeout => true,
            Self::Config(_) | Self::Seed(_) | Self::At(_) | Self::Flush | Self::Hold => false,
            Self::Client(..) => false,
            Self::Release | Self::ReleaseOne | Self::FailLoad | Self::Sync => false,
            Self::Restart | Self::Crash | Self::Trap | Self::Damage(..) | Self::Stats(_) => false,
        }
    }
}

/// What is wrong with a scenario file, or what went differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What and, where it helps, what to do.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}:{}: {}",
            self.path.display(),
            self.line,
            self.message
        )
    }
}

impl core::error::Error for Failure {}

impl Scenario {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| Failure {
            path: path.to_owned(),
            line: 1,
            message: format!("cannot be read: {error}"),
        })?;
        Self::parse(path, &text)
    }

    /// Every scenario of the repository, by name.
    pub fn all() -> Result<Vec<Self>, Failure> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let entries = fs::read_dir(&folder).expect("the scenarios lie beside this crate");
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.expect("the folder can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
            .collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// The name of the file without its extension.
    pub fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Whether the tests write what they see instead of comparing.
    pub fn updating() -> bool {
        env::var_os(UPDATE_VARIABLE).is_some_and(|value| value == "1")
    }

    /// Reads a file's text; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Failure> {
        let mut lines: Vec<Line> = Vec::new();
        // Inputs that no batch has taken yet, by the line of the first.
        let mut pending: Option<usize> = None;
        for (index, text) in text.lines().enumerate() {
            let number = index + 1;
            let fail = |message: String| Failure {
                path: path.to_owned(),
                line: number,
                message,
            };
            if number == 1 && !(text.starts_with("# ") && text.ends_with('.')) {
                return Err(fail("the first line must be a comment that says the behaviour in a sentence, `# …sentence.`".to_owned()));
            }
            if let Some(expected) = text.strip_prefix('>') {
                let above = lines
                    .last_mut()
                    .filter(|line| line.action.as_ref().is_some_and(Action::has_effects));
                let above = above.ok_or_else(|| {
                    fail(
                        "an expectation must follow the line that has effects, such as `flush`"
                            .to_owned(),
                    )
                })?;
                let expected = expected.strip_prefix(' ').unwrap_or(expected);
                above.expected.push(expected.to_owned());
                continue;
            }
            if let Some(rest) = text.strip_prefix("and ") {
                let message = lines.last_mut().and_then(|line| line.action.as_mut());
                let Some(Action::Send(_, frames)) = message else {
                    return Err(fail(
                        "`and` must follow a `send` or another `and`".to_owned(),
                    ));
                };
                frames.push(repeated(rest).map_err(fail)?);
                // The frame belongs to the action above; the text of both lines stays together.
                let above = lines.last_mut().expect("there is a line with the message");
                above.text.push('\n');
                above.text.push_str(text);
                continue;
            }
            let action = if text.trim().is_empty() || text.starts_with('#') {
                None
            } else {
                Some(parse_action(text).map_err(fail)?)
            };
            match &action {
                Some(action) if action.is_input() => pending = pending.or(Some(number)),
                Some(Action::Flush) => pending = None,
                // What a dying broker has not handled is lost with it.
                Some(Action::Restart | Action::Crash | Action::Trap) => pending = None,
                Some(
                    Action::Release | Action::ReleaseOne | Action::FailLoad | Action::Client(..),
                ) => {
                    if let Some(line) = pending {
                        return Err(fail(format!(
                            "this is a batch of its own: `flush` the inputs from line {line} first"
                        )));
                    }
                }
                _ => {}
            }
            lines.push(Line {
                number,
                text: text.to_owned(),
                action,
                expected: Vec::new(),
            });
        }
        if lines.is_empty() {
            return Err(Failure {
                path: path.to_owned(),
                line: 1,
                message: "the file is empty".to_owned(),
            });
        }
        if let Some(line) = pending {
            return Err(Failure {
                path: path.to_owned(),
                line,
                message: "nothing follows from this input: the file lacks a `flush` behind it"
                    .to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            lines,
        })
    }

    /// The file's text with `effects` in place of its expectations.
    pub fn with_effects(&self, effects: &[Vec<String>]) -> String {
        let mut text = String::new();
        for (line, effects) in self.lines.iter().zip(effects) {
            text.push_str(&line.text);
            text.push('\n');
            for effect in effects {
                text.push_str(if effect.is_empty() { ">" } else { "> " });
                text.push_str(effect);
                text.push('\n');
            }
        }
        text
    }
}

fn parse_action(text: &str) -> Result<Action, String> {
    let text = repeated(text)?;
    let (verb, rest) = text.split_once(' ').unwrap_or((text.as_str(), ""));
    let rest = rest.trim();
    let alone = |action: Action| {
        if rest.is_empty() {
            Ok(action)
        } else {
            Err(format!("`{verb}` takes nothing, not `{rest}`"))
        }
    };
    match verb {
        "config" => Ok(Action::Config(rest.to_owned())),
        "seed" => Ok(Action::Seed(number(verb, rest)?)),
        "at" => Ok(Action::At(number(verb, rest)?)),
        "connect" | "client" => connect(verb, rest),
        "send" => {
            let (connection, frame) = rest
                .split_once(' ')
                .ok_or("`send` takes a connection and a frame: `send ID {json}`")?;
            Ok(Action::Send(id(connection)?, vec![frame.to_owned()]))
        }
        "raw" => {
            let (connection, hex) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(Action::Raw(id(connection)?, bytes(hex)?))
        }
        "disconnect" => Ok(Action::Disconnect(id(rest)?)),
        "restored" => match rest.split_once(' ') {
            Some((connection, "clean")) => Ok(Action::Restored(id(connection)?, true)),
            Some((connection, "unclean")) => Ok(Action::Restored(id(connection)?, false)),
            _ => {
                Err("`restored` takes a connection and how: `restored ID clean|unclean`".to_owned())
            }
        },
        "seen" => match rest.split_once(' ') {
            Some((connection, at)) => Ok(Action::Seen(id(connection)?, Some(number(verb, at)?))),
            None => Ok(Action::Seen(id(rest)?, None)),
        },
        "storage" => {
            let available =
                match rest.split_once(' ') {
                    Some(("available", latency)) => (true, latency),
                    Some(("unavailable", latency)) => (false, latency),
                    _ => return Err(
                        "`storage` takes a state and a latency: `storage available|unavailable MS`"
                            .to_owned(),
                    ),
                };
            let latency = number("storage", available.1)?;
            let latency = u32::try_from(latency).map_err(|_| "a latency fits 32 bits")?;
            Ok(Action::Storage(available.0, latency))
        }
        "drain" => alone(Action::Drain),
        "timeout" => alone(Action::Timeout),
        "flush" => alone(Action::Flush),
        "hold" => alone(Action::Hold),
        "release" if rest == "one" => Ok(Action::ReleaseOne),
        "release" => alone(Action::Release),
        "fail" if rest == "load" => Ok(Action::FailLoad),
        "sync" => alone(Action::Sync),
        "restart" => alone(Action::Restart),
        "crash" => alone(Action::Crash),
        "trap" => alone(Action::Trap),
        "damage" if !rest.is_empty() => Ok(match rest.split_once(" = ") {
            Some((key, hex)) => Action::Damage(key.to_owned(), Some(bytes(hex)?)),
            None => Action::Damage(rest.to_owned(), None),
        }),
        "stats" if !rest.is_empty() => {
            Ok(Action::Stats(rest.split(' ').map(str::to_owned).collect()))
        }
        _ => Err(format!(
            "`{text}` is not a line of a scenario; they are listed in tests/src/conformance/scenario.rs"
        )),
    }
}

fn connect(verb: &str, rest: &str) -> Result<Action, String> {
    let usage = || {
        format!(
            "`{verb}` takes `ID json|binary NAMESPACE [RIGHT,RIGHT...] [user=NAME] [device=NAME] [ip=ADDRESS]`"
        )
    };
    let mut words: Vec<&str> = rest.split(' ').collect();
    let (mut user, mut device, mut ip) = (String::new(), String::new(), Vec::new());
    while let Some((name, value)) = words.last().and_then(|word| word.split_once('=')) {
        match name {
            "user" => user = value.to_owned(),
            "device" => device = value.to_owned(),
            "ip" => {
                ip = match value.parse() {
                    Ok(IpAddr::V4(address)) => address.octets().to_vec(),
                    Ok(IpAddr::V6(address)) => address.octets().to_vec(),
                    Err(_) => return Err(format!("`{value}` is no address")),
                };
            }
            _ => return Err(usage()),
        }
        words.pop();
    }
    let (connection, encoding, namespace, rights) = match words[..] {
        [connection, encoding, namespace] => (connection, encoding, namespace, "all"),
        [connection, encoding, namespace, rights] => (connection, encoding, namespace, rights),
        _ => return Err(usage()),
    };
    let encoding = match encoding {
        "json" => Encoding::Json,
        "binary" => Encoding::Binary,
        _ => return Err(format!("an encoding is json or binary, not `{encoding}`")),
    };
    let mut set = Rights(0);
    for right in rights.split(',') {
        set.0 |= match right {
            "all" => Rights::ALL.0,
            "none" => 0,
            "publish" => Rights::PUBLISH.0,
            "subscribe" => Rights::SUBSCRIBE.0,
            "history" => Rights::HISTORY.0,
            "presence" => Rights::PRESENCE.0,
            "manage" => Rights::MANAGE.0,
            "operate" => Rights::OPERATE.0,
            _ => {
                return Err(format!(
                    "a right is all, none, publish, subscribe, history, presence, manage or operate, not `{right}`"
                ));
            }
        };
    }
    let action = if verb == "client" {
        Action::Client
    } else {
        Action::Connect
    };
    let claims = Claims {
        namespace: namespace.to_owned(),
        user,
        device,
        rights: set,
    };
    Ok(action(id(connection)?, encoding, claims, ip))
}

fn number(verb: &str, text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("`{verb}` takes an integer, not `{text}`"))
}

fn id(text: &str) -> Result<ConnectionId, String> {
    text.parse()
        .map(ConnectionId)
        .map_err(|_| format!("a connection is an integer, not `{text}`"))
}

/// Reads hex digits, spaces between them as it pleases.
fn bytes(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = core::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs
        .collect::<Option<_>>()
        .ok_or_else(|| format!("bytes are pairs of hex digits, not `{hex}`"))
}

/// Writes `{{TEXT N}}` out.
fn repeated(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once("{{") {
        let (inside, after) = inside
            .split_once("}}")
            .filter(|(inside, _)| inside.contains(' '))
            .ok_or("`{{` begins a repetition: `{{TEXT N}}`")?;
        let (part, count) = inside.rsplit_once(' ').expect("it has a space");
        let count: usize = count
            .parse()
            .map_err(|_| format!("`{{{{{inside}}}}}` does not end with how often"))?;
        out.push_str(before);
        out.push_str(&part.repeat(count));
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> String {
        match Scenario::parse(Path::new("x.txt"), text) {
            Ok(_) => panic!("{text:?} was read"),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_line() {
        for (text, expected) in [
            ("", "x.txt:1: the file is empty"),
            ("flush\n", "x.txt:1: the first line must be a comment"),
            (
                "# No sentence\n",
                "x.txt:1: the first line must be a comment",
            ),
            (
                "# A.\nfly 1\n",
                "x.txt:2: `fly 1` is not a line of a scenario",
            ),
            (
                "# A.\nflush now\n",
                "x.txt:2: `flush` takes nothing, not `now`",
            ),
            (
                "# A.\nat soon\n",
                "x.txt:2: `at` takes an integer, not `soon`",
            ),
            ("# A.\nat -1\n", "x.txt:2: `at` takes an integer, not `-1`"),
            ("# A.\nconnect 1 json\n", "x.txt:2: `connect` takes"),
            (
                "# A.\nconnect 1 xml a\n",
                "x.txt:2: an encoding is json or binary, not `xml`",
            ),
            (
                "# A.\nconnect 1 json a ip=here\n",
                "x.txt:2: `here` is no address",
            ),
            ("# A.\nconnect 1 json a age=3\n", "x.txt:2: `connect` takes"),
            (
                "# A.\nconnect x json a\n",
                "x.txt:2: a connection is an integer, not `x`",
            ),
            (
                "# A.\nconnect 1 json a fly\n",
                "x.txt:2: a right is all, none, publish",
            ),
            (
                "# A.\nsend 1\n",
                "x.txt:2: `send` takes a connection and a frame",
            ),
            (
                "# A.\nraw 1 0g\n",
                "x.txt:2: bytes are pairs of hex digits, not `0g`",
            ),
            (
                "# A.\nraw 1 012\n",
                "x.txt:2: bytes are pairs of hex digits",
            ),
            ("# A.\nraw 1 ä1\n", "x.txt:2: bytes are pairs of hex digits"),
            ("# A.\nsend 1 {{a}}\n", "x.txt:2: `{{` begins a repetition"),
            (
                "# A.\nsend 1 {{a b}}\n",
                "x.txt:2: `{{a b}}` does not end with how often",
            ),
            (
                "# A.\nrestored 1\n",
                "x.txt:2: `restored` takes a connection and how",
            ),
            (
                "# A.\nstorage gone 1\n",
                "x.txt:2: `storage` takes a state and a latency",
            ),
            (
                "# A.\nstorage available 4294967296\n",
                "x.txt:2: a latency fits 32 bits",
            ),
            ("# A.\nand {}\n", "x.txt:2: `and` must follow a `send`"),
            ("# A.\n> close 1\n", "x.txt:2: an expectation must follow"),
            (
                "# A.\nhold\n> close 1\n",
                "x.txt:3: an expectation must follow",
            ),
            (
                "# A.\n\ndrain\n",
                "x.txt:3: nothing follows from this input",
            ),
            (
                "# A.\ndrain\nrelease\n",
                "x.txt:3: this is a batch of its own: `flush` the inputs from line 2 first",
            ),
        ] {
            let told = failure(text);
            assert!(told.starts_with(expected), "{text:?}: {told}");
        }
    }

    #[test]
    fn a_file_is_written_as_it_was_read() {
        let text = "# A.\n\nconnect 1 json a\n# why\nsend 1 {{a 3}}\nand b\nflush\n> one\n>\n> two\nflush\n";
        let scenario = Scenario::parse(Path::new("x.txt"), text).unwrap();
        let expected: Vec<Vec<String>> = scenario
            .lines
            .iter()
            .map(|line| line.expected.clone())
            .collect();
        assert_eq!(scenario.with_effects(&expected), text);
        let sent = scenario.lines.iter().find_map(|line| match &line.action {
            Some(Action::Send(connection, frames)) => Some((*connection, frames.clone())),
            _ => None,
        });
        let frames = vec!["aaa".to_owned(), "b".to_owned()];
        assert_eq!(sent, Some((ConnectionId(1), frames)));
    }
}
