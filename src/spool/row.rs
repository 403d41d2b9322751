//! A delivery as a row of the table `deliveries`.

use bytes::Bytes;
use rusqlite::{Connection, Row, Statement, ToSql, params};
use strum::VariantArray;
use time::OffsetDateTime;

use super::{Seq, UnverifiedSize};
use crate::auth::AuthMethod;
use crate::delivery::{Delivery, TraceContext};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT seq, received_at, authenticated_by, acknowledged, checksum, body, trace, reference, is_redelivery
             FROM deliveries",
            $rest
        )
    };
}

/// Selects the number of a delivery, and the fields of [`SpoolRow`] in their order.
pub(super) const SELECT: &str = select!("");
/// The deliveries after a number.
pub(super) const SELECT_AFTER: &str = select!(" WHERE seq > ? ORDER BY seq");

/// The statement for [`SpoolRow::insert`].
pub(super) const INSERT: &str = "INSERT INTO deliveries
         (seq, received_at, authenticated_by, acknowledged, checksum, body, trace, reference, is_redelivery)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The values of a row. In a row that was read, they may be damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpoolRow<B> {
    /// Microseconds since 1970.
    pub(super) received_at: i64,
    /// [`origin_code`]; 0 when it is unknown.
    pub(super) authenticated_by: i64,
    /// 0 or 1.
    pub(super) acknowledged: i64,
    pub(super) checksum: i64,
    pub(super) body: B,
    /// Not covered by the checksum: a damaged trace does not make a delivery unusable.
    pub(super) trace: Option<[u8; 24]>,
    /// JSON text.
    pub(super) reference: Option<B>,
    /// 0 or 1.
    pub(super) is_redelivery: i64,
}

impl<B: ToSql> SpoolRow<B> {
    /// Adds the row at `seq`, or after all others, with the statement [`INSERT`].
    pub(super) fn insert(&self, insert: &mut Statement, seq: Option<Seq>) -> rusqlite::Result<()> {
        insert.execute(params![
            seq,
            self.received_at,
            self.authenticated_by,
            self.acknowledged,
            self.checksum,
            self.body,
            self.trace,
            self.reference,
            self.is_redelivery,
        ])?;
        Ok(())
    }
}

impl<'a> SpoolRow<&'a [u8]> {
    pub(super) fn new(delivery: &'a Delivery) -> Self {
        let mut row = Self {
            received_at: to_micros(delivery.received_at),
            authenticated_by: origin_code(delivery),
            acknowledged: delivery.acknowledged.into(),
            checksum: 0,
            body: &delivery.body,
            trace: delivery.trace.map(TraceContext::to_bytes),
            reference: delivery.reference.as_deref().map(str::as_bytes),
            is_redelivery: delivery.is_redelivery.into(),
        };
        row.checksum = row.expected_checksum();
        row
    }

    /// Reads the columns after the first one. A damaged value becomes 0, so the checksum does not match.
    pub(super) fn read(row: &'a Row) -> Self {
        let number = |column| row.get(column).unwrap_or_default();
        let blob = |column| row.get_ref(column).ok().and_then(|value| value.as_blob().ok());
        Self {
            received_at: number(1),
            authenticated_by: number(2),
            acknowledged: number(3),
            checksum: number(4),
            body: blob(5).unwrap_or_default(),
            trace: row.get(6).unwrap_or_default(),
            reference: blob(7),
            is_redelivery: number(8),
        }
    }

    /// The delivery, and whether its checksum matches.
    pub(super) fn delivery(&self) -> (Delivery, bool) {
        let delivery = Delivery {
            body: Bytes::copy_from_slice(self.body),
            received_at: from_micros(self.received_at),
            authenticated_by: variant(self.authenticated_by, 1),
            fetched_from: variant(self.authenticated_by, FIRST_FETCH_CODE),
            acknowledged: self.acknowledged != 0,
            trace: self.trace.map(TraceContext::from_bytes),
            reference: self.reference.and_then(|text| String::from_utf8(text.to_vec()).ok()),
            is_redelivery: self.is_redelivery != 0,
        };
        (delivery, self.checksum == self.expected_checksum())
    }

    fn expected_checksum(&self) -> i64 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [self.received_at, self.authenticated_by, self.acknowledged, self.is_redelivery] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.body);
        hasher.update(self.reference.unwrap_or_default());
        hasher.finalize().into()
    }
}

/// The code of the first source of a fetched execution.
const FIRST_FETCH_CODE: i64 = 101;

/// The stored deliveries of unsigned webhooks.
pub(super) fn unverified(connection: &Connection) -> rusqlite::Result<UnverifiedSize> {
    let select = "SELECT count(*), coalesce(sum(length(body)), 0) FROM deliveries WHERE authenticated_by = ?";
    connection.query_row(select, [method_code(AuthMethod::Unverified)], |row| {
        Ok(UnverifiedSize { rows: row.get(0)?, bytes: row.get(1)? })
    })
}

fn method_code(method: AuthMethod) -> i64 {
    method as i64 + 1
}

/// The position of the authentication method in its list, from 1. For a fetched execution, the position of its source, from
/// [`FIRST_FETCH_CODE`].
fn origin_code(delivery: &Delivery) -> i64 {
    match (delivery.authenticated_by, delivery.fetched_from) {
        (_, Some(source)) => source as i64 + FIRST_FETCH_CODE,
        (Some(method), None) => method_code(method),
        (None, None) => 0,
    }
}

/// The variant with this code. `first` is the code of the first variant.
fn variant<T: VariantArray + Copy>(code: i64, first: i64) -> Option<T> {
    T::VARIANTS.get(usize::try_from(code.checked_sub(first)?).ok()?).copied()
}

/// Microseconds since 1970.
pub(super) fn to_micros(moment: OffsetDateTime) -> i64 {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}

/// From microseconds since 1970. A damaged number is clamped to times that PostgreSQL can store.
pub(super) fn from_micros(micros: i64) -> OffsetDateTime {
    let micros = micros.clamp(0, to_micros(time::UtcDateTime::MAX.into()));
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::FetchSource;

    #[test]
    fn the_checksum_covers_every_column_except_the_trace() {
        let delivery = Delivery {
            body: Bytes::from_static(b"body"),
            received_at: from_micros(1),
            authenticated_by: Some(AuthMethod::Signature),
            fetched_from: None,
            acknowledged: true,
            trace: Some(TraceContext::from_bytes([7; 24])),
            reference: Some(r#"{"order":"1"}"#.to_owned()),
            is_redelivery: false,
        };
        let row = SpoolRow::new(&delivery);
        assert!(row.delivery().1);
        for altered in [
            SpoolRow { received_at: 2, ..row.clone() },
            SpoolRow { authenticated_by: 2, ..row.clone() },
            SpoolRow { authenticated_by: 0, ..row.clone() },
            SpoolRow { acknowledged: 0, ..row.clone() },
            SpoolRow { checksum: row.checksum + 1, ..row.clone() },
            SpoolRow { body: b"bode", ..row.clone() },
            SpoolRow { reference: None, ..row.clone() },
            SpoolRow { is_redelivery: 1, ..row.clone() },
        ] {
            assert!(!altered.delivery().1, "{altered:?}");
        }
        assert!(SpoolRow { trace: None, ..row }.delivery().1, "the trace is not covered");
    }

    #[test]
    fn a_row_has_the_authentication_method_or_the_source_of_a_fetched_execution() {
        let origins = AuthMethod::VARIANTS.iter().map(|method| (Some(*method), None));
        let fetched = FetchSource::VARIANTS.iter().map(|source| (None, Some(*source)));
        for (authenticated_by, fetched_from) in origins.chain(fetched).chain([(None, None)]) {
            let delivery = Delivery {
                body: Bytes::from_static(b"body"),
                received_at: from_micros(1),
                authenticated_by,
                fetched_from,
                acknowledged: true,
                trace: None,
                reference: None,
                is_redelivery: false,
            };
            let (read, intact) = SpoolRow::new(&delivery).delivery();
            assert_eq!((read.authenticated_by, read.fetched_from), (authenticated_by, fetched_from));
            assert!(intact);
        }
    }
}
