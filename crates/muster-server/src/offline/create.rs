//! Making a database: a file of this machine, or roles, schema and tables in a PostgreSQL that is there.
//!
//! Stays true: a password that was made here is told to nobody but the caller; a role that is there keeps its own.

use super::{OfflineError, data_directory, database_url, failed, location};
use crate::Config;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_engine::Random;
use muster_store::{Password, Role, Roles, SqlStore};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Bytes of chance in a password that is made here.
const PASSWORD_BYTES: usize = 24;

/// Accepts the name of a role or a schema, before a database is asked. The error says what a name is made of.
pub fn name_check(name: &str) -> Result<(), String> {
    muster_store::name_check(name).map_err(|error| error.to_string())
}

/// What becomes of a role's password.
#[derive(Clone)]
pub enum RolePassword {
    /// A new role is given one that is made here; one that is there keeps its own.
    Made,
    /// It is this one from now on.
    Given(String),
    /// None is set: the role signs in another way, or has one.
    Kept,
}

/// A role to make.
#[derive(Clone)]
pub struct NewRole {
    /// Its name: small letters, digits and underscores.
    pub name: String,
    /// What becomes of its password.
    pub password: RolePassword,
}

/// The roles and the schema of a PostgreSQL database.
#[derive(Clone)]
pub struct NewRoles {
    /// Owns the tables.
    pub owner: NewRole,
    /// Serves.
    pub server: NewRole,
    /// Only reads.
    pub reader: NewRole,
    /// The schema that holds the tables.
    pub schema: String,
}

/// How a role came to its password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordIs {
    /// It was made here.
    Made,
    /// It was given.
    Given,
    /// It is what it was, or there is none.
    Kept,
}

impl PasswordIs {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::Given => "given",
            Self::Kept => "kept",
        }
    }
}

/// A role that can be used now.
#[derive(Clone)]
pub struct CreatedRole {
    /// What it is for: `owner`, `server` or `reader`.
    pub purpose: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it was not there before.
    pub is_new: bool,
    /// How it came to its password.
    pub password: PasswordIs,
    /// The URL to use, without a password.
    pub url: String,
    /// The URL to use, with the password where it is known.
    pub secret_url: String,
}

/// What was made.
pub struct Created {
    /// Which database, without a password.
    pub location: String,
    /// The schema it had; `None` when it was empty.
    pub from: Option<i64>,
    /// The schema it has.
    pub to: i64,
    /// Its roles; none for a file.
    pub roles: Vec<CreatedRole>,
}

/// Makes the configured database: for PostgreSQL with `roles`, in a database that is there, as somebody who may make
/// roles; for a file without. Twice is once.
pub async fn create(config: &Config, roles: Option<NewRoles>, random: &dyn Random) -> Result<Created, OfflineError> {
    const DOING: &str = "the database could not be made";
    data_directory(config)?;
    let (url, to) = (database_url(config), SqlStore::SCHEMA_VERSION);
    let Some(roles) = roles else {
        let made = SqlStore::create(&url, None).await.map_err(failed(config, DOING))?;
        return Ok(Created { location: location(config), from: made.had, to, roles: Vec::new() });
    };
    let role = |role: NewRole| Role { name: role.name, password: password(role.password, random) };
    let NewRoles { owner, server, reader, schema } = roles;
    let roles = Roles { owner: role(owner), server: role(server), reader: role(reader), schema };
    let made = SqlStore::create(&url, Some(&roles)).await.map_err(failed(config, DOING))?;
    let shown = [("owner", &roles.owner), ("server", &roles.server), ("reader", &roles.reader)];
    let shown = shown.into_iter().map(|(purpose, role)| {
        let is_new = made.new_roles.contains(&role.name);
        let (password, secret) = match &role.password {
            Password::SetIfNew(secret) if is_new => (PasswordIs::Made, Some(secret.as_str())),
            Password::Set(secret) => (PasswordIs::Given, Some(secret.as_str())),
            Password::SetIfNew(_) | Password::Keep => (PasswordIs::Kept, None),
        };
        let secret_url = login_url(&url, &role.name, secret);
        CreatedRole {
            purpose,
            name: role.name.clone(),
            is_new,
            password,
            url: login_url(&url, &role.name, None),
            secret_url,
        }
    });
    Ok(Created { location: location(config), from: made.had, to, roles: shown.collect() })
}

fn password(wanted: RolePassword, random: &dyn Random) -> Password {
    match wanted {
        RolePassword::Given(password) => Password::Set(password),
        RolePassword::Kept => Password::Keep,
        RolePassword::Made => {
            let mut bytes = [0; PASSWORD_BYTES];
            random.fill(&mut bytes);
            Password::SetIfNew(URL_SAFE_NO_PAD.encode(bytes))
        }
    }
}

/// Returns a database URL with another name and password.
fn login_url(url: &str, name: &str, password: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgresql", url));
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let of_another = |pair: &&str| !pair.starts_with("user=") && !pair.starts_with("password=") && !pair.is_empty();
    let kept: Vec<_> = query.split('&').filter(of_another).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    let password = password.map(|password| format!(":{}", utf8_percent_encode(password, NON_ALPHANUMERIC)));
    format!("{scheme}://{name}{}@{hosts}{path}{query}", password.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;
    use crate::world::SystemRandom;

    #[test]
    fn a_url_is_that_of_another_role() {
        for (url, want) in [
            ("postgresql://root:s3cret@h1,h2:5/db?a=b&password=x", "postgresql://me:p%40%2F@h1,h2:5/db?a=b"),
            ("postgres://h/db", "postgres://me:p%40%2F@h/db"),
            ("postgresql:///db?host=/run&user=root", "postgresql://me:p%40%2F@/db?host=/run"),
        ] {
            assert_eq!(login_url(url, "me", Some("p@/")), want);
        }
        assert_eq!(login_url("postgresql://a:b@h/db", "me", None), "postgresql://me@h/db");
    }

    #[tokio::test]
    async fn a_file_is_made_once_and_has_no_roles() {
        let dir = tempfile::tempdir().unwrap();
        let flags = Overrides { data: Some(dir.path().join("data")), ..Overrides::default() };
        let config = Config::load(None, [], &flags).unwrap();
        let made = create(&config, None, &SystemRandom).await.unwrap();
        assert_eq!((made.from, made.roles.len()), (None, 0));
        let again = create(&config, None, &SystemRandom).await.unwrap();
        assert_eq!(again.from, Some(SqlStore::SCHEMA_VERSION));
        let role = |name: &str| NewRole { name: name.into(), password: RolePassword::Made };
        let roles = NewRoles { owner: role("a"), server: role("b"), reader: role("c"), schema: "m".into() };
        assert!(create(&config, Some(roles), &SystemRandom).await.is_err());
    }
}
