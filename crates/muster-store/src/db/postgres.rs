//! PostgreSQL: the pool, transactions on its connections, and trying again.
//!
//! Each call runs as a task of its own, so that a caller who goes away leaves nothing half done. BEGIN travels with the
//! first statement. A lost race, and a connection that broke before COMMIT was sent, are tried again; one that broke
//! after leaves the outcome open, and the caller is told so.

use super::dialect::{self, Insert, postgres_error as refuse};
use super::sqlite::Use;
use super::threads::Broken;
use super::value::{Row, Value};
use super::{Body, Tx};
use crate::StoreError;
use crate::error::ErrorKind;
use crate::store::StoreOptions;
use bytes::BytesMut;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use futures_util::future::join;
use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long one connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// First and longest pause before a call is tried again.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How often a call that lost a race is tried in all.
const TRIES_MAX: u32 = 30;
/// How long a rollback may take before its connection is given up.
const ROLLBACK_MAX: Duration = Duration::from_secs(2);
/// Without a time limit, as far as a backup can tell.
const FOR_EVER: Duration = Duration::from_hours(24);

/// Where a database is, and how to talk to it.
#[derive(Clone)]
pub(crate) struct Target {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// The word of the URL that sounds as if TLS were spoken, where it is not.
    misleading: Option<&'static str>,
}

impl Target {
    /// Reads a `postgres://` URL. `sslmode=require`, `verify-ca` and `verify-full` all check the server's certificate and
    /// name, against `sslrootcert` or the system's authorities; without them the connection is plain.
    ///
    /// Of several hosts, the first that takes writes is meant. What is committed is durable, whatever is usual at the
    /// server: who wants it otherwise says so in the URL's `options`.
    pub(crate) fn parse(url: &str, options: &StoreOptions) -> Result<Self, StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        let (mut secure, mut misleading) = (false, None);
        let mut roots = Cow::Borrowed("/etc/ssl/certs/ca-certificates.crt");
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", "require" | "verify-ca" | "verify-full")) => secure = true,
                Some(("sslmode", "prefer")) => misleading = Some("prefer"),
                Some(("sslmode", "allow")) => misleading = Some("allow"),
                Some(("sslmode", "disable")) => {}
                Some(("sslrootcert", path)) => roots = Cow::Owned(decoded(path)),
                _ => kept.push(pair),
            }
        }
        kept.push(if secure { "sslmode=require" } else { "sslmode=disable" });
        let text = format!("{base}?{}", kept.join("&"));
        let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| {
            // The text of the error names the parameter, never its value.
            StoreError::Refused(format!("the database URL cannot be read: {error}"))
        })?;
        let limits = format!(
            "-c synchronous_commit=on {} -c statement_timeout={1} -c lock_timeout={1} \
             -c idle_in_transaction_session_timeout={2}",
            config.get_options().unwrap_or_default(),
            options.call_limit.as_millis(),
            options.call_limit.as_millis().saturating_mul(2),
        );
        config.options(limits.trim());
        if config.get_application_name().is_none() {
            config.application_name("muster");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_MAX);
        }
        if config.get_hosts().len() > 1 && config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = if secure { Some(tls(&roots)?) } else { None };
        Ok(Self { config, tls, misleading: misleading.filter(|_| !secure) })
    }

    /// Returns what to say of a connection that others on the way can read, although the URL sounds otherwise.
    fn in_clear(&self) -> Option<String> {
        self.misleading.map(|word| {
            format!(
                "the connection to the database is in clear, as sslmode={word} allows: for TLS write sslmode=verify-full, \
                 with sslrootcert where the authority is not the system's"
            )
        })
    }

    /// Makes one connection, outside of the pool.
    pub(crate) async fn connect(&self) -> Result<tokio_postgres::Client, StoreError> {
        if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await.map_err(connecting)?;
            tokio::spawn(connection);
            return Ok(client);
        }
        let (client, connection) = self.config.connect(NoTls).await.map_err(connecting)?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Makes a pool of connections. None is made yet.
    fn pool(&self, options: &StoreOptions) -> Result<Pool, StoreError> {
        if let Some(words) = self.in_clear() {
            tracing::warn!("{words}");
        }
        let how = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match &self.tls {
            Some(tls) => Manager::from_config(self.config.clone(), tls.clone(), how),
            None => Manager::from_config(self.config.clone(), NoTls, how),
        };
        let hosts = u32::try_from(self.config.get_hosts().len().max(1)).unwrap_or(u32::MAX);
        let pool = Pool::builder(manager)
            .max_size(options.connections)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(options.call_limit))
            .create_timeout(Some(CONNECT_MAX.saturating_mul(hosts)))
            .recycle_timeout(Some(CONNECT_MAX));
        pool.build().map_err(|error| StoreError::Refused(format!("the pool cannot be built: {error}")))
    }
}

/// Replaces `%XX` in a part of a URL. What is no such thing stays as it is.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tls(roots: &str) -> Result<MakeRustlsConnect, StoreError> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let refuse = |why: String| StoreError::Refused(format!("the authorities in {roots} cannot be read: {why}"));
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots).map_err(|error| refuse(error.to_string()))? {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        store.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// An open PostgreSQL database.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pool: Pool,
    options: StoreOptions,
    broken: Broken,
    /// Spreads the pauses of calls that lost the same race.
    turn: Arc<AtomicU32>,
}

impl Database {
    pub(crate) fn new(target: &Target, options: &StoreOptions, broken: Broken) -> Result<Self, StoreError> {
        let pool = target.pool(options)?;
        Ok(Self { pool, options: options.clone(), broken, turn: Arc::default() })
    }

    /// Runs a method in a transaction and waits for its commit.
    pub(crate) async fn call<A, T>(&self, purpose: Use, args: A, body: Body<A, T>) -> Result<T, StoreError>
    where
        A: Send + Sync + 'static,
        T: Send + 'static,
    {
        let this = self.clone();
        let task = tokio::spawn(async move { this.drive(purpose, &args, body).await });
        task.await.unwrap_or_else(|error| Err(StoreError::Statement(error.into())))
    }

    async fn drive<A: Sync, T>(&self, purpose: Use, args: &A, body: Body<A, T>) -> Result<T, StoreError> {
        if purpose != Use::Read
            && let Some(reason) = self.broken.borrow().clone()
        {
            return Err(StoreError::Broken(reason.into()));
        }
        let limit = if purpose == Use::Copy { FOR_EVER } else { self.options.call_limit };
        let start = Instant::now();
        let mut tries = 0;
        loop {
            let error = match self.attempt(purpose, args, body, start + limit).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tries += 1;
            let again = dialect::is_lost_race(&error)
                || (error.kind() == ErrorKind::Unavailable && start.elapsed() < self.options.retry_for);
            if !again || tries >= TRIES_MAX || start.elapsed() > limit {
                if error.kind() == ErrorKind::Broken && purpose != Use::Read {
                    self.broken.send_replace(Some(super::threads::chain(&error)));
                }
                return Err(error);
            }
            sleep(self.pause(tries)).await;
        }
    }

    fn pause(&self, tries: u32) -> Duration {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % 8;
        let full = PAUSE_FIRST.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
        full / 2 + full / 16 * turn
    }

    async fn attempt<A, T>(
        &self,
        purpose: Use,
        args: &A,
        body: Body<A, T>,
        deadline: Instant,
    ) -> Result<T, StoreError> {
        let late = || StoreError::Unavailable("the database took too long".into());
        let client = match timeout_at(deadline, self.pool.get()).await {
            Ok(Ok(client)) => client,
            Ok(Err(PoolError::Backend(error))) => return Err(connecting(error)),
            Ok(Err(error)) => return Err(StoreError::Unavailable(error.into())),
            Err(_) => return Err(late()),
        };
        let mut tx = Tx::Postgres(Box::new(Session { client, purpose, begun: false }));
        let result = timeout_at(deadline, body(&mut tx, args)).await;
        let Tx::Postgres(session) = tx else { unreachable!("a body cannot change the kind of its transaction") };
        match result {
            Ok(Ok(value)) => session.commit(deadline).await.map(|()| value),
            Ok(Err(error)) => {
                session.roll_back(&error).await;
                Err(error)
            }
            Err(_) => {
                // A statement is under way: only closing its connection ends it.
                drop(Object::take(session.client));
                Err(late())
            }
        }
    }
}

/// An error while connecting: whatever the server's reason, a later try may be met differently.
fn connecting(error: tokio_postgres::Error) -> StoreError {
    StoreError::Unavailable(error.into())
}

/// A transaction on a connection of the pool.
#[derive(Debug)]
pub(crate) struct Session {
    client: Object,
    purpose: Use,
    begun: bool,
}

impl Session {
    async fn prepare(&self, sql: &str) -> Result<Statement, StoreError> {
        self.client.prepare_cached(sql).await.map_err(refuse)
    }

    /// Runs `work` in the transaction, which begins with it.
    async fn within<T>(&mut self, work: impl AsyncWork<T>) -> Result<T, StoreError> {
        if self.begun {
            return work.run(&self.client).await.map_err(refuse);
        }
        self.begun = true;
        let begin = match self.purpose {
            Use::Write => "BEGIN",
            Use::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Use::Copy => "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = 0",
        };
        // Both are sent before the first is answered.
        let (opened, done) = join(self.client.batch_execute(begin), work.run(&self.client)).await;
        opened.map_err(refuse)?;
        done.map_err(refuse)
    }

    pub(super) async fn query(&mut self, sql: &str, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepare(sql).await?;
        let params: Vec<_> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.within(Query { statement: &statement, params: &params }).await?;
        rows.iter().map(read).collect()
    }

    /// Runs a statement for at most `limit` and keeps nothing of it.
    pub(super) async fn query_once(
        &mut self,
        sql: &str,
        params: &[Value<'_>],
        limit: Duration,
    ) -> Result<Vec<Row>, StoreError> {
        let millis = limit.as_millis().to_string();
        self.query("SELECT set_config('statement_timeout', $1, TRUE)", &[Value::from(millis)]).await?;
        self.query_made(sql, params).await
    }

    /// Runs a statement that is not kept.
    pub(super) async fn query_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
        let statement = self.client.prepare(sql).await.map_err(refuse)?;
        let params: Vec<_> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let rows = self.within(Query { statement: &statement, params: &params }).await?;
        rows.iter().map(read).collect()
    }

    pub(super) async fn execute(&mut self, sql: &str, params: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.prepare(sql).await?;
        let params: Vec<_> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.within(Execute { statement: &statement, params: &params }).await
    }

    /// Runs a statement that is not kept.
    pub(super) async fn execute_made(&mut self, sql: &str, params: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.client.prepare(sql).await.map_err(refuse)?;
        let params: Vec<_> = params.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.within(Execute { statement: &statement, params: &params }).await
    }

    pub(super) async fn insert_many(
        &mut self,
        insert: &'static Insert,
        rows: &[Value<'_>],
    ) -> Result<Vec<bool>, StoreError> {
        let width = insert.columns.len();
        let count = rows.len() / width;
        let statement = self.prepare(&insert.postgres()).await?;
        let columns: Vec<Vec<&Value<'_>>> =
            (0..width).map(|column| rows.iter().skip(column).step_by(width).collect()).collect();
        let params: Vec<_> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        if !insert.skip_known {
            self.within(Execute { statement: &statement, params: &params }).await?;
            return Ok(vec![true; count]);
        }
        let mut keys = self.within(Query { statement: &statement, params: &params }).await?;
        if keys.len() == count {
            return Ok(vec![true; count]);
        }
        let mut new = std::collections::HashSet::with_capacity(keys.len());
        for key in keys.drain(..) {
            new.insert(key.try_get::<_, Vec<u8>>(0).map_err(refuse)?);
        }
        // Of two rows with one key, the first was inserted.
        let key = |value: &&Value<'_>| matches!(value, Value::Bytes(bytes) if new.remove(bytes.as_ref()));
        Ok(columns[0].iter().map(key).collect())
    }

    async fn commit(self, deadline: Instant) -> Result<(), StoreError> {
        if !self.begun {
            return Ok(());
        }
        match timeout_at(deadline, self.client.batch_execute("COMMIT")).await {
            Ok(Ok(())) => Ok(()),
            // A read has nothing to lose.
            _ if self.purpose == Use::Read => {
                drop(Object::take(self.client));
                Ok(())
            }
            Ok(Err(error)) if !dialect::leaves_commit_open(&error) => Err(refuse(error)),
            Ok(Err(error)) => {
                drop(Object::take(self.client));
                Err(StoreError::Unknown(error.into()))
            }
            Err(_) => {
                drop(Object::take(self.client));
                Err(StoreError::Unknown("no answer to COMMIT in time".into()))
            }
        }
    }

    async fn roll_back(self, error: &StoreError) {
        if !self.begun {
            return;
        }
        // A server that only reads is the wrong one: the next connection looks for the right one.
        let wrong = error.kind() == ErrorKind::Unavailable && !dialect::is_lost_race(error);
        let deadline = Instant::now() + ROLLBACK_MAX;
        let rolled_back = timeout_at(deadline, self.client.batch_execute("ROLLBACK")).await;
        if wrong || !matches!(rolled_back, Ok(Ok(()))) {
            drop(Object::take(self.client));
        }
    }
}

/// A statement that can be sent along with BEGIN.
trait AsyncWork<T> {
    fn run(self, client: &Object) -> impl Future<Output = Result<T, tokio_postgres::Error>> + Send;
}

struct Query<'a> {
    statement: &'a Statement,
    params: &'a [&'a (dyn ToSql + Sync)],
}

impl AsyncWork<Vec<tokio_postgres::Row>> for Query<'_> {
    async fn run(self, client: &Object) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        client.query(self.statement, self.params).await
    }
}

struct Execute<'a> {
    statement: &'a Statement,
    params: &'a [&'a (dyn ToSql + Sync)],
}

impl AsyncWork<u64> for Execute<'_> {
    async fn run(self, client: &Object) -> Result<u64, tokio_postgres::Error> {
        client.execute(self.statement, self.params).await
    }
}

fn read(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let mut values = Vec::with_capacity(row.len());
    for (index, column) in row.columns().iter().enumerate() {
        let value = match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(index).map(|v| v.map(Value::Int)),
            Type::INT4 => row.try_get::<_, Option<i32>>(index).map(|v| v.map(Value::from)),
            Type::FLOAT8 => row.try_get::<_, Option<f64>>(index).map(|v| v.map(Value::Real)),
            Type::BOOL => row.try_get::<_, Option<bool>>(index).map(|v| v.map(Value::from)),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(index).map(|v| v.map(|v| Value::Bytes(Cow::Owned(v)))),
            _ => row.try_get::<_, Option<String>>(index).map(|v| v.map(|v| Value::Text(Cow::Owned(v)))),
        };
        values.push(value.map_err(refuse)?.unwrap_or(Value::Null));
    }
    Ok(Row(values))
}

impl ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT4 => i32::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Real(number) => number.to_sql(ty, out),
            Self::Text(text) => text.as_ref().to_sql(ty, out),
            Self::Bytes(bytes) => bytes.as_ref().to_sql(ty, out),
            Self::IntList(numbers) => numbers.to_sql(ty, out),
            Self::TextList(texts) => texts.to_sql(ty, out),
            Self::BytesList(items) => items.to_sql(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_in_clear_that_sounds_otherwise_is_said() {
        let words = |query: &str| {
            let url = format!("postgresql://u@db.example/muster{query}");
            Target::parse(&url, &StoreOptions::default()).unwrap().in_clear()
        };
        for word in ["prefer", "allow"] {
            let said = words(&format!("?sslmode={word}")).unwrap();
            assert!(said.contains("in clear") && said.contains(word), "{said}");
        }
        assert_eq!([words(""), words("?sslmode=disable")], [None, None], "who asks for no TLS knows");
    }
}
