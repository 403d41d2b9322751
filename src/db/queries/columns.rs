//! The columns of a row, for CSV.

use time::OffsetDateTime;

use super::json::Json;

pub(crate) trait Columns: Send {
    /// The names of the columns, in the order of [`Self::cells`].
    const COLUMNS: &'static [&'static str];

    fn cells(&self) -> Vec<Cell<'_>>;
}

/// A value of a column.
pub(crate) enum Cell<'r> {
    Null,
    Text(&'r str),
    /// A number or a boolean.
    Plain(String),
    Time(OffsetDateTime),
}

/// Defines a struct whose fields are the columns. `hidden` fields are neither columns nor in JSON.
macro_rules! columns {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $Row:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $Field:ty,)*
        }
        hidden { $($(#[$hidden_attribute:meta])* $hidden_visibility:vis $hidden:ident: $Hidden:ty,)* }
    ) => {
        $(#[$attribute])*
        $visibility struct $Row {
            $($(#[$field_attribute])* $field_visibility $field: $Field,)*
            $($(#[$hidden_attribute])* #[serde(skip)] $hidden_visibility $hidden: $Hidden,)*
        }

        impl $crate::db::queries::columns::Columns for $Row {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn cells(&self) -> Vec<$crate::db::queries::columns::Cell<'_>> {
                vec![$((&self.$field).into()),*]
            }
        }
    };
}
pub(super) use columns;

impl<'r, T> From<&'r Option<T>> for Cell<'r>
where
    Cell<'r>: From<&'r T>,
{
    fn from(value: &'r Option<T>) -> Self {
        value.as_ref().map_or(Self::Null, <Self as From<&'r T>>::from)
    }
}

impl<'r> From<&'r String> for Cell<'r> {
    fn from(text: &'r String) -> Self {
        Self::Text(text)
    }
}

impl From<&OffsetDateTime> for Cell<'_> {
    fn from(time: &OffsetDateTime) -> Self {
        Self::Time(*time)
    }
}

impl From<&Json> for Cell<'_> {
    fn from(number: &Json) -> Self {
        Self::Plain(number.0.clone())
    }
}

macro_rules! plain {
    ($($Plain:ty),*) => {
        $(impl From<&$Plain> for Cell<'_> {
            fn from(value: &$Plain) -> Self {
                Self::Plain(value.to_string())
            }
        })*
    };
}
plain!(bool, i32, i64, f64);
