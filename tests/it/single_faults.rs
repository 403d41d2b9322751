//! Single faults of the receiver's environment: the spool's files, standard error, memory. `torture.rs` injects them
//! repeatedly.

use crate::support::faults::{Arena, Fault, start_with_large_wal};
use crate::support::postgres::{new_database, url};

const SENDERS: usize = 4;

async fn survives(fault: Fault) {
    let mut arena = Arena::on_shared_postgres(SENDERS).await;
    arena.inject(fault).await;
    arena.finish().await.assert_good();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_with_a_backlog_loses_nothing_acknowledged() {
    survives(Fault::KillWithBacklog).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_directory_removed_nothing_acknowledged_is_lost() {
    survives(Fault::RemoveSpoolDirectory).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_file_removed_nothing_acknowledged_is_lost() {
    survives(Fault::RemoveSpoolFile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_file_replaced_nothing_acknowledged_is_lost() {
    survives(Fault::ReplaceSpoolFile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_write_ahead_log_removed_nothing_acknowledged_is_lost() {
    survives(Fault::RemoveWal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_spool_file_truncated_the_loss_is_reported_and_nothing_acknowledged_after_it_is_lost() {
    for fault in [Fault::EmptySpoolFile, Fault::TruncateSpoolFile, Fault::EmptyWal] {
        survives(fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_full_webhooks_are_acknowledged_and_recorded() {
    survives(Fault::StderrFull).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_closed_webhooks_are_acknowledged_and_recorded() {
    survives(Fault::StderrClosed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_reader_of_standard_error_gone_webhooks_are_acknowledged_and_recorded() {
    survives(Fault::StderrReaderGone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_standard_error_stalled_webhooks_are_acknowledged_and_recorded() {
    survives(Fault::StderrStalled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_large_write_ahead_log_takes_less_than_256_mib() {
    let database = new_database().await;
    start_with_large_wal(&database, &url(&database)).await;
}
