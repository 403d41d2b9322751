//! Opens the spool: locks the files, repairs them before SQLite reads them, and creates the channels to the writer.

use std::sync::Arc;

use tokio::sync::watch;

use super::files::{self, DATABASE, OpenFiles};
use super::mark::Mark;
use super::reader;
use super::recovery::salvage::{SalvagePlan, salvage};
use super::recovery::{absorb, adopt, replace};
use super::writer::Channels;
use super::{
    AckHandle, Intake, Reader, ReconciledUntil, SpoolError, SpoolHandle, SpoolStatus, UnverifiedSize, Writer,
    losses, reserve, row, schema,
};
use crate::config;
use crate::metrics::Metrics;

/// An open spool.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) handle: SpoolHandle,
    pub(crate) reader: Reader,
    pub(crate) acks: AckHandle,
    pub(crate) status: watch::Receiver<SpoolStatus>,
    pub(crate) intake: Intake,
    pub(crate) writer: Writer,
    pub(crate) reconciled_until: Arc<ReconciledUntil>,
    /// The stored deliveries with [`crate::auth::AuthMethod::Unverified`].
    pub(crate) unverified: UnverifiedSize,
}

/// Opens or creates the spool in `settings.dir`. Up to `capacity` deliveries wait for the writer. The locks are held until
/// the writer and the reader are dropped.
///
/// # Errors
/// [`SpoolError`]. Nothing is ever overwritten: damaged files are renamed, and their readable deliveries are copied into a
/// new file.
pub(crate) fn open(
    settings: &config::Spool,
    capacity: usize,
    metrics: &Arc<Metrics>,
) -> Result<Spool, SpoolError> {
    let dir = &settings.dir;
    let directory = files::lock_directory(dir)?;
    let path = dir.join(DATABASE);
    replace::finish(&path)?;
    let mut database = files::lock_database(&path)?;
    schema::check_header(&path, &database)?;
    reserve::remove(dir);
    files::restrict(dir).map_err(SpoolError::at(dir))?;
    let reconciled_until = Arc::new(ReconciledUntil::new(dir, !Mark::exists(dir)));
    let mark = Mark::read(dir);
    if let Some(rescued) = adopt::adopt(&path, &database, mark)? {
        database = rescued;
    }
    let plan = SalvagePlan::examine(&path, &database).map_err(SpoolError::at(dir))?;
    let mut salvaged = plan.is_some();
    if let Some(plan) = plan {
        database = salvage(&path, &database, &plan, mark, metrics, &reconciled_until)?;
    }
    let connection = match schema::prepare(&path) {
        Err(SpoolError::Damaged(cause)) => {
            let plan = SalvagePlan::damaged(cause.to_string());
            database = salvage(&path, &database, &plan, mark, metrics, &reconciled_until)?;
            salvaged = true;
            schema::prepare(&path)?
        }
        prepared => prepared?,
    };
    if !salvaged {
        losses::report(&connection, mark, metrics, &reconciled_until)?;
    }
    // An error is ignored: on a full disk, the next start reports the same losses again.
    let _ = losses::store(&connection);
    let absorbed = absorb::absorb(&path, &connection, None, metrics, &reconciled_until, &mut || ())?;
    let unverified = row::unverified(&connection)?;
    let reader_connection = reader::connect(&path)?;
    let files = OpenFiles::new(dir, Arc::new(directory), Arc::new(database)).map_err(SpoolError::at(dir))?;
    let (files, (to_writer, to_reader)) = (Arc::new(files), reader::channels());
    let reader = Reader::new(reader_connection, files.clone(), to_writer, reconciled_until.clone());

    let (handle, pending) = SpoolHandle::new(capacity);
    let intake = Intake::new(pending, handle.stalled.clone());
    let status = Writer::read_status(&connection)?;
    let (acks, acked) = AckHandle::new(status.acked_seq);
    let (publisher, status_receiver) = watch::channel(status);
    let channels = Channels { intake: intake.clone(), acked, status: publisher, reader: to_reader };
    let mut writer = Writer::new(
        connection,
        status,
        files,
        channels,
        settings,
        metrics.clone(),
        reconciled_until.clone(),
    )?;
    writer.set_needs_space(absorbed.needs_space);
    Ok(Spool { unverified, handle, reader, acks, status: status_receiver, intake, writer, reconciled_until })
}
