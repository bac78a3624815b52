//! Imports: an archive becomes a namespace, all of it or nothing.
//!
//! Messages are written as they come, where nobody sees them, behind a row that says so; what makes them a namespace,
//! the state, is kept until everything was checked, and written in one piece with the end of that row. If it never
//! comes to that, what was written is deleted: at once, or when the broker starts and finds the row.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use crate::archive::{ArchiveError, ArchiveReader};
use crate::context::{Context, Work};
use crate::effect::{Durability, Op};
use crate::error::{ErrorCode, Refusal};
use crate::export::{Asked, check_part, unknown_transfer};
use crate::ids::{Sequence, Timestamp, TransferId};
use crate::namespace::Namespace;
use crate::protocol::frame::{self, Imported, Reply};
use crate::verify::NamespaceVerifier;
use crate::wire::Put as _;

pub(crate) struct Import {
    id: TransferId,
    reader: ArchiveReader,
    verifier: NamespaceVerifier,
    /// The rows of the state, to be written last.
    state: Vec<Op>,
    state_bytes: u64,
    /// The part that comes next, and the one that is being read.
    part: u64,
    given: Option<Given>,
    /// When it is given up.
    deadline: Timestamp,
}

/// A part, and who is to be told when it was read.
#[derive(Clone, Copy)]
struct Given {
    by: Asked,
    last: bool,
}

impl Namespace {
    /// Begins an import, or goes on with it. The reply comes when the part is written.
    pub(crate) fn import(
        &mut self,
        cx: &mut Context,
        connection: u32,
        command: &frame::Import<'_>,
        seed: u64,
    ) -> Result<(), Refusal> {
        crate::manage::require_manage(cx, connection, "import into the namespace")?;
        cx.require_storage()?;
        let begins = command.import == 0;
        if begins {
            check_part("import", 0, command.part)?;
            self.begin_import(cx, seed)?;
        }
        let import = self.import.as_mut();
        let import = import
            .filter(|import| begins || import.id == TransferId(command.import))
            .ok_or_else(|| unknown_transfer("import"))?;
        if import.given.is_some() {
            let message = format!("part {} of the import is being read", import.part - 1);
            return Err(Refusal::later(ErrorCode::Busy, message));
        }
        check_part("import", import.part, command.part)?;
        import.part += 1;
        import.reader.push(command.bytes);
        import.given = Some(Given {
            by: Asked::by(cx, connection, command.request),
            last: command.last,
        });
        cx.move_transfer(self.index, import.id, &mut import.deadline);
        cx.ready.push_back(Work::Import {
            namespace: self.index,
        });
        Ok(())
    }

    fn begin_import(&mut self, cx: &mut Context, seed: u64) -> Result<(), Refusal> {
        if self.import.is_some() {
            return Err(self.importing());
        }
        if !self.topics.is_empty()
            || self.last_sequence > Sequence(0)
            || !self.groups.is_empty()
            || !self.subscriptions.is_empty()
            || self.devices.has_sessions()
            || !self.exports.is_empty()
        {
            let message = format!(
                "namespace \"{}\" is in use: an import needs one without topics, groups, subscriptions, sessions and a past",
                self.name
            );
            return Err(Refusal::new(ErrorCode::ConflictingConfig, message));
        }
        if cx.imports >= cx.config.imports_max {
            let message = format!("{} imports are under way (imports_max)", cx.imports);
            return Err(Refusal::later(ErrorCode::LimitReached, message));
        }
        cx.imports += 1;
        let deadline = cx.now;
        self.import = Some(Box::new(Import {
            id: cx.begin_transfer(self.index, deadline),
            reader: ArchiveReader::new(),
            verifier: NamespaceVerifier::within(&self.name, cx.config.clone(), seed),
            state: Vec::new(),
            state_bytes: 0,
            part: 0,
            given: None,
            deadline,
        }));
        self.delete_import(cx);
        let mut value = Vec::new();
        value.put_u64(crate::rows::ROW_VERSION);
        cx.ops.push(Op::Put {
            key: self.keys.import(),
            value,
        });
        Ok(())
    }

    /// Deletes what an import has written.
    pub(crate) fn delete_import(&self, cx: &mut Context) {
        let (from, to) = self.keys.all_messages();
        cx.ops.push(Op::DeleteRange { from, to });
        cx.ops.push(Op::Delete {
            key: self.keys.import(),
        });
    }

    /// Goes on with an import: some blocks in every batch, however many a part unpacks to.
    pub(crate) fn advance_import(&mut self, cx: &mut Context, seed: u64) {
        let Some(import) = &mut self.import else {
            return;
        };
        let Some(given) = import.given else {
            return;
        };
        match import.take(cx, &self.keys) {
            Ok(true) => {
                cx.more = true;
                cx.ready.push_back(Work::Import {
                    namespace: self.index,
                });
                return;
            }
            Ok(false) => {}
            Err(refusal) => return self.fail_import(cx, &refusal),
        }
        let (id, part, rows) = (import.id, import.part - 1, import.reader.rows());
        let after = if given.last {
            if let Err(refusal) = self.finish_import(cx, seed) {
                return self.fail_import(cx, &refusal);
            }
            cx.after(Durability::Sync)
        } else {
            import.given = None;
            // A part that ends inside a block may end in a batch that writes nothing: then the last write has it all.
            let mut after = cx.after(Durability::Async);
            after.applied.0 -= u64::from(cx.ops.is_empty());
            after
        };
        let imported = Imported {
            request: given.by.request,
            import: id.0,
            part,
            rows,
        };
        if given.by.is_there(cx) {
            cx.reply(given.by.connection, after, &Reply::Imported(imported));
        }
    }

    /// Makes a namespace of what was read.
    fn finish_import(&mut self, cx: &mut Context, seed: u64) -> Result<(), Refusal> {
        let import = self.import.as_mut().expect("the caller has it");
        import.reader.finish().map_err(refused)?;
        let summary = import.verifier.finish();
        summary.map_err(|why| refused(ArchiveError(format!("the archive: {why}"))))?;
        let import = self.import.as_ref().expect("the caller has it");
        self.check_imported(&cx.config, import.verifier.namespace())?;
        let import = self.take_import(cx).expect("it was there");
        cx.ops.push(Op::Delete {
            key: self.keys.import(),
        });
        // The limits and rules are those of the archive now.
        for (from, to) in [self.keys.all_limits(), self.keys.all_rules()] {
            cx.ops.push(Op::DeleteRange { from, to });
        }
        let (from, to) = self.keys.all_devices();
        cx.ops.push(Op::DeleteRange { from, to });
        cx.ops.extend(import.state);
        cx.durability = Durability::Sync;
        let imported = import.verifier.into_namespace();
        self.end_devices(cx);
        self.replace_with(imported);
        self.begin_imported_devices(cx);
        self.begin_incarnation(&cx.config, seed);
        self.list_schedule(cx);
        Ok(())
    }

    fn fail_import(&mut self, cx: &mut Context, refusal: &Refusal) {
        let Some(import) = self.take_import(cx) else {
            return;
        };
        self.delete_import(cx);
        if let Some(given) = import.given.filter(|given| given.by.is_there(cx)) {
            cx.refuse(given.by.connection, given.by.request, refusal);
        }
    }

    /// Gives up the import whose next part did not come in time.
    pub(crate) fn expire_import(&mut self, cx: &mut Context, id: TransferId) {
        let Some(import) = self.import.as_mut().filter(|import| import.id == id) else {
            return;
        };
        if import.given.is_some() {
            // It is not idle: a part is being read.
            return cx.move_transfer(self.index, id, &mut import.deadline);
        }
        self.take_import(cx);
        self.delete_import(cx);
    }

    fn take_import(&mut self, cx: &mut Context) -> Option<Import> {
        let import = self.import.take()?;
        cx.end_transfer(self.index, import.id, import.deadline);
        cx.imports -= 1;
        Some(*import)
    }

    /// What is answered to a command that cannot be while an import is under way.
    pub(crate) fn importing(&self) -> Refusal {
        let message = format!("namespace \"{}\" is being imported", self.name);
        Refusal::later(ErrorCode::Busy, message)
    }
}

impl Import {
    /// Reads a block of the part and writes its messages. False when it takes the next part to go on.
    fn take(&mut self, cx: &mut Context, keys: &crate::rows::Keys) -> Result<bool, Refusal> {
        let Self {
            reader,
            verifier,
            state,
            state_bytes,
            ..
        } = self;
        let bytes_max = cx.config.archive_state_bytes_max;
        let ops = &mut cx.ops;
        reader
            .next_rows(|key, value| {
                if !NamespaceVerifier::travels(key) {
                    return Err("no archive has such a row".into());
                }
                verifier.row(key, value)?;
                let put = Op::Put {
                    key: keys.with_tail(key),
                    value: value.to_vec(),
                };
                if key[0] >= 0x80 {
                    ops.push(put);
                    return Ok(());
                }
                *state_bytes += (key.len() + value.len()) as u64;
                if *state_bytes > bytes_max {
                    return Err(format!(
                        "the state is larger than {bytes_max} bytes (archive_state_bytes_max)"
                    ));
                }
                state.push(put);
                Ok(())
            })
            .map_err(refused)
    }
}

fn refused(error: ArchiveError) -> Refusal {
    Refusal::new(ErrorCode::InvalidArchive, error.0)
}
