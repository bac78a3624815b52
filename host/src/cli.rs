//! The command line.

mod archive;
mod bench;
mod client;
mod dead_letters;
mod doctor;
mod group;
mod limit;
mod member;
mod namespace;
mod publish;
mod request;
mod rule;
mod scheduled;
mod serve;
mod subscribe;
mod table;
mod time;
mod topic;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A messaging broker: one deterministic core, here as a native server.
#[derive(Parser)]
#[command(name = "dunlin", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a broker until SIGTERM or Ctrl-C
    Serve(serve::Serve),
    /// Publishes messages from the command line, a file or standard input
    Pub(publish::Publish),
    /// Prints messages as they come, to one of many or, with --group, to one of a group
    Sub(subscribe::Subscribe),
    /// Publishes a message, waits for its answer and prints that
    ///
    /// Ends with `no_responders` if nobody would hear it, and with `timeout` if nobody answers in time.
    Request(request::Ask),
    /// Lists, describes, configures and deletes topics
    Topic(topic::Topic),
    /// Lists, describes, configures, moves, pauses and deletes consumer groups
    Group(group::Group),
    /// Lists, replays and deletes the messages that a group gave up
    DeadLetters(dead_letters::DeadLetters),
    /// Lists and cancels messages that wait for their time
    Scheduled(scheduled::Scheduled),
    /// Lists, sets and removes rate limits
    Limit(limit::Limit),
    /// Lists, sets, deletes and explains the rules that route messages
    Rule(rule::Rule),
    /// Lists, creates, configures and deletes namespaces, and tells what they used
    Namespace(namespace::Namespace),
    /// Writes a namespace to a file: the backup of a running broker, or the way to another one
    ///
    /// The archive shows the namespace as it was at one moment, when the export began, however long it takes and
    /// whatever is published meanwhile: nothing has to be stopped. It goes into any dunlin, native, at the edge or in a
    /// browser, with `dunlin import` or its equal there.
    Export(archive::Export),
    /// Makes a namespace of an archive: all of it or, when anything is wrong with it, nothing
    ///
    /// The namespace must be new: without topics, groups, subscriptions and a past. It may have another name than the
    /// one that was exported.
    Import(archive::Import),
    /// Says whether a data directory or an archive is whole, and changes nothing
    ///
    /// Of a directory it reads the journal, every row and its checksum, and looks whether the rows of each namespace
    /// fit one another. It ends with 0 if all is right and with 1 if anything is wrong.
    Doctor(doctor::Doctor),
    /// Measures a broker over real sockets
    Bench(bench::Bench),
}

/// Which broker to speak to, and as whom.
#[derive(Args, Clone, Debug)]
struct Target {
    /// The broker's address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8787")]
    url: String,
    /// The namespace
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// The namespace's token, where the broker asks for one
    #[arg(
        long,
        value_name = "TOKEN",
        env = "DUNLIN_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// The user to be, such as rate limits count
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The user's device to be
    #[arg(long, value_name = "NAME", requires = "user")]
    device: Option<String>,
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Lines for people
    #[default]
    Human,
    /// A JSON object a line
    Json,
}

/// Does what the command line says. Wrong usage exits with 2, anything that fails with 1.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start threads");
    let outcome = runtime.and_then(|runtime| {
        let outcome = runtime.block_on(async {
            match arguments.verb {
                Verb::Serve(serve) => serve.run().await,
                Verb::Pub(publish) => publish.run().await,
                Verb::Sub(subscribe) => subscribe.run().await,
                Verb::Request(request) => request.run().await,
                Verb::Topic(topic) => topic.run().await,
                Verb::Group(group) => group.run().await,
                Verb::DeadLetters(dead_letters) => dead_letters.run().await,
                Verb::Scheduled(scheduled) => scheduled.run().await,
                Verb::Limit(limit) => limit.run().await,
                Verb::Rule(rule) => rule.run().await,
                Verb::Namespace(namespace) => namespace.run().await,
                Verb::Export(export) => export.run().await,
                Verb::Import(import) => import.run().await,
                Verb::Doctor(doctor) => doctor.run(),
                Verb::Bench(bench) => bench.run().await,
            }
        });
        // A thread that waits for standard input would hold the end up for ever.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dunlin: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lets this process have as many sockets as the system permits; the usual first limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it may not be raised, the old limit holds, and reaching it is told then.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Whether the reader of our output, such as `head`, has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints one line at once; unlike `println!` it does not panic when nobody reads.
fn print_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
