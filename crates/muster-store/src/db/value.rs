//! What travels between the methods and a database: parameters in, rows out.
//!
//! Stays true: what one database would take and the other refuse (a zero byte in text, a number that is none) is
//! refused here, before either sees it.

use crate::StoreError;
use muster_core::action::{ActionId, InvestigatorId};
use muster_core::{AgentId, AllocationId, BroadcastId, ContactId, MessageId, ServerId, Timestamp};
use std::borrow::Cow;

/// A parameter or a column.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// For `= ANY($n)`.
    IntList(Vec<i64>),
    /// For `= ANY($n)`.
    TextList(Vec<&'a str>),
    /// For `= ANY($n)`.
    BytesList(Vec<&'a [u8]>),
}

impl Value<'_> {
    /// Returns the value of a list that holds one.
    pub(crate) fn single(&self) -> Option<Value<'_>> {
        match self {
            Self::IntList(numbers) => <[i64; 1]>::try_from(&numbers[..]).ok().map(|[number]| Value::Int(number)),
            Self::TextList(texts) => <[&str; 1]>::try_from(&texts[..]).ok().map(|[text]| Value::Text(text.into())),
            Self::BytesList(items) => <[&[u8]; 1]>::try_from(&items[..]).ok().map(|[bytes]| Value::Bytes(bytes.into())),
            _ => None,
        }
    }

    /// Refuses what the two databases would not hold alike.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let fits = match self {
            Self::Text(text) => !text.contains('\0'),
            Self::TextList(texts) => texts.iter().all(|text| !text.contains('\0')),
            Self::Real(number) => {
                return if number.is_finite() {
                    Ok(())
                } else {
                    Err(StoreError::Invalid("a measured value must be a finite number".to_owned()))
                };
            }
            _ => true,
        };
        if fits { Ok(()) } else { Err(StoreError::Invalid("text must not hold a zero byte".to_owned())) }
    }
}

/// Returns `number` as the databases hold it; `what` names it in the error.
pub(crate) fn number(what: &'static str, number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Invalid(format!("{what} must be at most 2^63 - 1, not {number}")))
}

macro_rules! from {
    ($($type:ty: $value:ident => $into:expr;)*) => {$(
        impl<'a> From<$type> for Value<'a> {
            fn from($value: $type) -> Self {
                $into
            }
        }
    )*};
}

from! {
    i64: v => Value::Int(v);
    i32: v => Value::Int(i64::from(v));
    u32: v => Value::Int(i64::from(v));
    bool: v => Value::Int(i64::from(v));
    f32: v => Value::Real(f64::from(v));
    f64: v => Value::Real(v);
    Timestamp: v => Value::Int(v.as_nanos());
    ContactId: v => Value::Int(v.0);
    ActionId: v => Value::Int(v.get());
    InvestigatorId: v => Value::Int(v.get());
    String: v => Value::Text(Cow::Owned(v));
    Vec<u8>: v => Value::Bytes(Cow::Owned(v));
    &'a str: v => Value::Text(Cow::Borrowed(v));
    &'a String: v => Value::Text(Cow::Borrowed(v));
    &'a [u8]: v => Value::Bytes(Cow::Borrowed(v));
    &'a Vec<u8>: v => Value::Bytes(Cow::Borrowed(v));
    &'a [u8; 32]: v => Value::Bytes(Cow::Borrowed(v));
    &'a AgentId: v => Value::Bytes(Cow::Borrowed(v.as_bytes()));
    &'a MessageId: v => Value::Bytes(Cow::Borrowed(v.as_bytes()));
    &'a BroadcastId: v => Value::Bytes(Cow::Borrowed(v.as_bytes()));
    &'a AllocationId: v => Value::Bytes(Cow::Borrowed(v.as_bytes()));
    &'a ServerId: v => Value::Bytes(Cow::Borrowed(v.as_bytes()));
    Vec<i64>: v => Value::IntList(v);
    Vec<&'a str>: v => Value::TextList(v);
    Vec<&'a [u8]>: v => Value::BytesList(v);
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// Makes a slice of parameters.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::db::value::Value::from($value)),*] };
}
pub(crate) use params;

/// One row of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Row(pub(crate) Vec<Value<'static>>);

impl Row {
    /// Starts reading the columns from the first on. `table` is named if one does not fit.
    pub(crate) fn fields(self, table: &'static str) -> Fields {
        Fields { row: self, table, next: 0 }
    }

    /// Reads the only column.
    pub(crate) fn only<T: Field>(self, table: &'static str) -> Result<T, StoreError> {
        self.fields(table).take()
    }
}

/// Reads a row column by column, in the order of the statement.
pub(crate) struct Fields {
    row: Row,
    table: &'static str,
    next: usize,
}

impl Fields {
    /// Reads the next column.
    pub(crate) fn take<T: Field>(&mut self) -> Result<T, StoreError> {
        let index = self.next;
        self.next += 1;
        let read = self.row.0.get_mut(index).and_then(T::read);
        read.ok_or_else(|| self.unfit(&format!("column {index} does not hold what it must")))
    }

    /// Names this row as one that cannot be.
    pub(crate) fn unfit(&self, why: &str) -> StoreError {
        let id = match self.row.0.first() {
            Some(Value::Bytes(bytes)) => hex::encode(bytes),
            Some(Value::Text(text)) => text.clone().into_owned(),
            Some(Value::Int(number)) => number.to_string(),
            _ => "row".to_owned(),
        };
        StoreError::Inconsistent { table: self.table, id: format!("{id}: {why}") }
    }
}

/// A type that a column can be read as. Reading moves long values out of the row; ids stay, to name the row.
pub(crate) trait Field: Sized {
    fn read(value: &mut Value<'static>) -> Option<Self>;
}

impl Field for i64 {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if let Value::Int(number) = value { Some(*number) } else { None }
    }
}

macro_rules! narrower {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn read(value: &mut Value<'static>) -> Option<Self> {
                i64::read(value)?.try_into().ok()
            }
        }
    )*};
}
narrower!(u64, u32, i32);

impl Field for bool {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        match i64::read(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Field for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "what is read was written from an f32")]
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if let Value::Real(number) = value { Some(*number as Self) } else { None }
    }
}

impl Field for Timestamp {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        i64::read(value).map(Self::from_nanos)
    }
}

impl Field for ContactId {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        i64::read(value).map(Self)
    }
}

impl Field for ActionId {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        Self::new(i64::read(value)?).ok()
    }
}

impl Field for InvestigatorId {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        Self::new(i64::read(value)?).ok()
    }
}

impl Field for String {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if let Value::Text(text) = value { Some(std::mem::take(text).into_owned()) } else { None }
    }
}

impl Field for Vec<u8> {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if let Value::Bytes(bytes) = value { Some(std::mem::take(bytes).into_owned()) } else { None }
    }
}

impl Field for [u8; 32] {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if let Value::Bytes(bytes) = value { bytes.as_ref().try_into().ok() } else { None }
    }
}

macro_rules! ids {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn read(value: &mut Value<'static>) -> Option<Self> {
                if let Value::Bytes(bytes) = value { Self::from_slice(bytes).ok() } else { None }
            }
        }
    )*};
}
ids!(AgentId, MessageId, BroadcastId, AllocationId, ServerId);

impl<T: Field> Field for Option<T> {
    fn read(value: &mut Value<'static>) -> Option<Self> {
        if *value == Value::Null { Some(None) } else { T::read(value).map(Some) }
    }
}
