//! The seam: one transaction handle with two databases behind it.
//!
//! A method of the store is written once, as a function of a [`Tx`] and its arguments. SQLite's statements are done when
//! their future is first polled; PostgreSQL's wait for the network. Who runs the method (the writer thread, a reader
//! thread, a task with a connection of the pool) begins, commits, rolls back and tries again; the method never does.

pub(crate) mod create;
pub(crate) mod dialect;
pub(crate) mod durability;
pub(crate) mod functions;
pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod sqlite;
pub(crate) mod threads;
pub(crate) mod value;

#[cfg(test)]
pub(crate) mod test_schema;
#[cfg(test)]
mod tests;

use crate::StoreError;
use dialect::Insert;
use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use value::{Row, Value};

/// What a method's body gives back.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// The body of a method. It can be run again, on a transaction that starts anew.
pub(crate) type Body<A, T> = for<'a> fn(&'a mut Tx, &'a A) -> Answer<'a, T>;

/// The text of a statement: written in this crate, never made of data.
pub(crate) type Sql = Cow<'static, str>;

/// A transaction under way.
#[derive(Debug)]
pub(crate) enum Tx {
    Sqlite(Box<sqlite::Session>),
    Postgres(Box<postgres::Session>),
}

impl Tx {
    /// Runs a statement and returns its rows.
    pub(crate) async fn query(&mut self, sql: impl Into<Sql>, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        params.iter().try_for_each(Value::check)?;
        match self {
            Self::Sqlite(session) => session.query(sql.into(), params),
            Self::Postgres(session) => session.query(&sql.into(), params).await,
        }
    }

    /// Runs a statement that is made of data's shape, and returns its rows. It may take `limit`; what takes
    /// longer is cancelled ([`dialect::is_cancelled`]).
    pub(crate) async fn query_once(
        &mut self,
        sql: &str,
        params: &[Value<'_>],
        limit: std::time::Duration,
    ) -> Result<Vec<Row>, StoreError> {
        params.iter().try_for_each(Value::check)?;
        match self {
            Self::Sqlite(session) => session.query_once(sql, params, limit),
            Self::Postgres(session) => session.query_once(sql, params, limit).await,
        }
    }

    /// As [`Tx::query_one`], with a statement that is made of data's shape: no connection keeps it for good.
    pub(crate) async fn query_one_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<Row, StoreError> {
        params.iter().try_for_each(Value::check)?;
        let mut rows = match self {
            Self::Sqlite(session) => session.query_made(sql, params),
            Self::Postgres(session) => session.query_made(sql, params).await,
        }?;
        rows.pop().ok_or_else(|| StoreError::Statement("a statement that gives one row gave none".into()))
    }

    /// As [`Tx::execute`], with a statement that is made of data's shape: no connection keeps it for good.
    pub(crate) async fn execute_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<u64, StoreError> {
        params.iter().try_for_each(Value::check)?;
        match self {
            Self::Sqlite(session) => session.execute_made(sql, params),
            Self::Postgres(session) => session.execute_made(sql, params).await,
        }
    }

    /// Runs a statement that gives at most one row.
    pub(crate) async fn query_opt(
        &mut self,
        sql: impl Into<Sql>,
        params: &[Value<'_>],
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.query(sql, params).await?.pop())
    }

    /// Runs a statement that always gives one row.
    pub(crate) async fn query_one(&mut self, sql: impl Into<Sql>, params: &[Value<'_>]) -> Result<Row, StoreError> {
        self.query_opt(sql, params)
            .await?
            .ok_or_else(|| StoreError::Statement("a statement that gives one row gave none".into()))
    }

    /// Runs a statement and returns how many rows it changed.
    pub(crate) async fn execute(&mut self, sql: impl Into<Sql>, params: &[Value<'_>]) -> Result<u64, StoreError> {
        params.iter().try_for_each(Value::check)?;
        match self {
            Self::Sqlite(session) => session.execute(sql.into(), params),
            Self::Postgres(session) => session.execute(&sql.into(), params).await,
        }
    }

    /// Inserts rows, given one after the other, and returns for each whether it was new.
    pub(crate) async fn insert_many(
        &mut self,
        insert: &'static Insert,
        rows: &[Value<'_>],
    ) -> Result<Vec<bool>, StoreError> {
        debug_assert_eq!(rows.len() % insert.columns.len(), 0, "rows are whole");
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        rows.iter().try_for_each(Value::check)?;
        match self {
            Self::Sqlite(session) => session.insert_many(insert, rows),
            Self::Postgres(session) => session.insert_many(insert, rows).await,
        }
    }

    /// Lets the database number new rows of a table after those that were put in with their numbers.
    pub(crate) async fn restart_numbers(&mut self, table: &str, column: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(session) => {
                let sql = format!(
                    "SELECT setval(pg_get_serial_sequence('{table}', '{column}'), \
                     COALESCE((SELECT max({column}) FROM {table}), 1))"
                );
                session.query(&sql, &[]).await.map(drop)
            }
        }
    }
}
