//! Archives: a namespace leaves as the body of a response, or comes as the body of a request. However large it is, what
//! is in memory of it is one part.

use core::time::Duration;
use std::io;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use dunlin_core::frame::{self, Command, Hello, PROTOCOL_VERSION, Reply};
use dunlin_core::http::{self, ARCHIVE, IMPORT_PART_BYTES, MALFORMED_REQUEST, Problem, REQUEST};
use dunlin_core::{ArchiveReader, Encoding, ErrorCode};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::outbound::Outgoing;
use crate::report;
use crate::requests::{next_frame, respond};
use crate::server::{Client, stopping};
use crate::shard::{Connection, Stopped};

/// How long a part may take: what a part unpacks to is written, and the last one is synced.
const PART_WITHIN: Duration = Duration::from_secs(60);

/// Answers with the namespace as an archive.
pub(crate) async fn export(client: Client<'_>, namespace: String) -> Result<Response, Problem> {
    let (connection, admission) = client.open(Encoding::Binary).await?;
    let mut export = Export::new(Transfer::new(connection));
    // Before the response begins, so that a refusal is an ordinary one.
    let first = match export.next().await {
        Ok(first) => first,
        Err(refusal) => return Ok(respond(refusal)),
    };
    if export.ended && first.as_deref().is_some_and(is_empty) {
        return Err(Problem::new(
            404,
            ErrorCode::UnknownNamespace.as_str(),
            format!("namespace {namespace:?} was never used; check its name"),
        ));
    }
    // The broker has taken it for a namespace, so the name is plain.
    let disposition = format!("attachment; filename=\"{namespace}.dunlin\"");
    let rest = stream::try_unfold((export, admission), |(mut export, admission)| async {
        let part = export.next().await?;
        Ok(part.map(|part| (part, (export, admission))))
    });
    // An error breaks the body off, which no client takes for its end.
    let rest = rest.map_err(move |refusal: http::Response| {
        let why = String::from_utf8_lossy(&refusal.body).trim().to_owned();
        report::error(&format!("an export of \"{namespace}\" broke off: {why}"));
        io::Error::other(why)
    });
    let parts = stream::iter(first.map(Ok)).chain(rest);
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(ARCHIVE));
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// Whether an archive that is one part has no row: what was ever used has some.
fn is_empty(archive: &[u8]) -> bool {
    let mut reader = ArchiveReader::new();
    reader.push(archive);
    while let Ok(true) = reader.next_rows(|_, _| Ok(())) {}
    reader.rows() == 0
}

/// Makes a namespace of the body.
pub(crate) async fn import(client: Client<'_>, body: Body) -> Result<Response, Problem> {
    let (connection, admission) = client.open(Encoding::Binary).await?;
    // A client that goes away takes the answer's task with it; the broker is told all the same.
    let importing = tokio::spawn(async move {
        let _admission = admission;
        let import = Import::new(Transfer::new(connection));
        take_body(import, body)
            .await
            .unwrap_or_else(|refusal| refusal)
    });
    let answer = importing.await.unwrap_or_else(|_| http::lost_response());
    Ok(respond(answer))
}

async fn take_body(mut import: Import, body: Body) -> Result<http::Response, http::Response> {
    let mut pieces = body.into_data_stream();
    let mut part = Vec::new();
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            import.give_up().await;
            let broken = "the body broke off; nothing of it was imported, send it again";
            return Err(Problem::new(400, MALFORMED_REQUEST, broken).response());
        };
        part.extend_from_slice(&piece);
        // Not at its length: the broker has to be told which part is the last, and until then it has not all.
        while part.len() > IMPORT_PART_BYTES {
            let rest = part.split_off(IMPORT_PART_BYTES);
            import.give(&part, false).await?;
            part = rest;
        }
    }
    let imported = import.give(&part, true).await?;
    http::response("", &Reply::Imported(imported)).ok_or_else(http::lost_response)
}

/// One export. Its parts are fetched as they are taken, at the reader's pace.
struct Export {
    transfer: Transfer,
    id: u64,
    part: u64,
    ended: bool,
}

impl Export {
    const fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            id: 0,
            part: 0,
            ended: false,
        }
    }

    /// The next part; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, http::Response> {
        if self.ended {
            return Ok(None);
        }
        let command = Command::Export(frame::Export {
            request: REQUEST,
            export: self.id,
            part: self.part,
        });
        let frame = self.transfer.ask(&command).await?;
        let Ok(Reply::ArchivePart(part)) = Reply::decode(&frame) else {
            return Err(http::lost_response());
        };
        self.id = part.export;
        self.part += 1;
        self.ended = part.last;
        Ok(Some(frame.slice_ref(part.bytes)))
    }
}

/// One import.
struct Import {
    transfer: Transfer,
    id: u64,
    part: u64,
}

impl Import {
    const fn new(transfer: Transfer) -> Self {
        Self {
            transfer,
            id: 0,
            part: 0,
        }
    }

    /// Gives the next part.
    async fn give(&mut self, bytes: &[u8], last: bool) -> Result<frame::Imported, http::Response> {
        let command = Command::Import(frame::Import {
            request: REQUEST,
            import: self.id,
            part: self.part,
            last,
            bytes,
        });
        let frame = self.transfer.ask(&command).await?;
        let Ok(Reply::Imported(imported)) = Reply::decode(&frame) else {
            return Err(http::lost_response());
        };
        self.id = imported.import;
        self.part += 1;
        Ok(imported)
    }

    /// Ends it before its end, which the broker refuses: it deletes what it has, and the namespace is free again.
    async fn give_up(mut self) {
        if self.part > 0 {
            let _ = self.give(b"", true).await;
        }
    }
}

/// A connection of this process's own, over which archives go part after part.
pub(crate) struct Transfer {
    connection: Connection,
    greeted: bool,
}

impl Transfer {
    pub(crate) const fn new(connection: Connection) -> Self {
        Self {
            connection,
            greeted: false,
        }
    }

    /// The frame that answers a command about archives, or the refusal.
    pub(crate) async fn ask(&mut self, command: &Command<'_>) -> Result<Bytes, http::Response> {
        match tokio::time::timeout(PART_WITHIN, self.answer(command)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Stopped)) => Err(stopping().response()),
            Err(_) => Err(http::lost_response()),
        }
    }

    async fn answer(
        &mut self,
        command: &Command<'_>,
    ) -> Result<Result<Bytes, http::Response>, Stopped> {
        let mut frames = Vec::new();
        if !core::mem::replace(&mut self.greeted, true) {
            Command::Hello(Hello {
                version: PROTOCOL_VERSION,
                client: Some("archives"),
                ephemeral: Some(true),
                echo: None,
            })
            .encode(&mut frames);
        }
        command.encode(&mut frames);
        self.connection.frame(Bytes::from(frames)).await?;
        loop {
            let outgoing = &mut self.connection.outgoing;
            let mut message = match outgoing.recv().await.ok_or(Stopped)? {
                Outgoing::Message(message) => message,
                Outgoing::Close(code, why) => return Ok(Err(http::close_response(code, &why))),
            };
            outgoing.written(message.len());
            while let Some(frame) = next_frame(&mut message) {
                match Reply::decode(&frame) {
                    Ok(Reply::ArchivePart(_) | Reply::Imported(_)) => return Ok(Ok(frame)),
                    Ok(reply) => {
                        if let Some(refusal) = http::response("", &reply) {
                            return Ok(Err(refusal));
                        }
                    }
                    Err(_) => {}
                }
            }
        }
    }
}
