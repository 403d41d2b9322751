//! Whether a delivery can be written now, as the writer measures it.

/// Why a delivery cannot be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// Deliveries take all the space that the spool may take.
    #[error("the spool is full: it has reached spool.max_bytes")]
    Full,
    /// The write-ahead log takes most of that space, and cannot be emptied.
    #[error(
        "the spool is full: it has reached spool.max_bytes, and its write-ahead log cannot be emptied while another process reads \
         spool.db. End that process"
    )]
    WalPinned,
    /// The disk has no room, or not enough for the reserve.
    #[error("the spool's disk is full")]
    DiskFull,
    /// The latest write failed.
    #[error("the spool's disk does not take writes")]
    Failing,
    /// The files held open are not the ones in the directory any more.
    #[error("files of the spool were removed, moved, truncated or replaced")]
    FilesChanged,
}
