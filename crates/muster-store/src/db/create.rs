//! Making a database: a file, or roles, a schema and rights in a PostgreSQL that is there already.
//!
//! Stays true: twice is once; who serves cannot change what is past (the journal) nor the schema; who only reads sees
//! what MIG's read-only role saw.

use super::dialect::postgres_error as refuse;
use super::postgres::Target;
use super::schema;
use crate::StoreError;

/// What becomes of the password of a role.
#[derive(Clone)]
pub enum Password {
    /// It keeps the one it has; a new role has none, and signs in another way.
    Keep,
    /// A new role is given this one; one that is there keeps its own.
    SetIfNew(String),
    /// It is this one from now on.
    Set(String),
}

/// A role of PostgreSQL.
#[derive(Clone)]
pub struct Role {
    /// Its name: small letters, digits and underscores.
    pub name: String,
    /// What becomes of its password.
    pub password: Password,
}

impl std::fmt::Debug for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Role").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Created {
    /// The version that the schema had; `None` for an empty database.
    pub had: Option<i64>,
    /// The names of roles that are new.
    pub new_roles: Vec<String>,
}

/// Who owns a database, who serves from it, and who only reads.
#[derive(Debug, Clone)]
pub struct Roles {
    /// Owns the tables and changes the schema (`muster db migrate`, `muster restore`).
    pub owner: Role,
    /// Reads and writes rows; only adds to the journal.
    pub server: Role,
    /// Reads what MIG's tables show.
    pub reader: Role,
    /// The schema that holds the tables; the roles look there first.
    pub schema: String,
}

/// What the reader may see: of investigators all but the hashes of API keys.
const READABLE: &str = "agents, actions, commands, signatures, modules, agtmodreq, invagtmodperm, agents_stats";
const READABLE_OF_INVESTIGATORS: &str = "id, name, pgpfingerprint, publickey, status, permissions, created, modified";

/// Accepts the name of a role or a schema: one that means the same with and without quotes. Refused: any other.
pub fn name_check(name: &str) -> Result<(), StoreError> {
    self::name(name).map(drop)
}

fn name(name: &str) -> Result<&str, StoreError> {
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_');
    if starts && name.len() < 64 && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Ok(name);
    }
    Err(StoreError::Refused(format!(
        "{name:?} cannot name a role or a schema here: use small letters, digits and underscores, no digit first, at \
         most 63"
    )))
}

fn literal(text: &str) -> Result<String, StoreError> {
    if text.contains('\0') {
        return Err(StoreError::Invalid("a password must not hold a zero byte".to_owned()));
    }
    // Backslashes mean nothing here: the connection says that strings conform to the standard.
    Ok(format!("'{}'", text.replace('\'', "''")))
}

/// Makes a role, or gives one that is there a password.
fn role_statement(role: &Role, is_new: bool) -> Result<String, StoreError> {
    let name = name(&role.name)?;
    Ok(match &role.password {
        Password::Keep if is_new => format!("CREATE ROLE {name} LOGIN;\n"),
        Password::Set(password) | Password::SetIfNew(password) if is_new => {
            format!("CREATE ROLE {name} LOGIN PASSWORD {};\n", literal(password)?)
        }
        Password::Set(password) => format!("ALTER ROLE {name} LOGIN PASSWORD {};\n", literal(password)?),
        Password::Keep | Password::SetIfNew(_) => String::new(),
    })
}

/// What is done as whoever was given to sign in: it must be allowed to make roles and a schema.
fn prepare(roles: &Roles, new_roles: &[String]) -> Result<String, StoreError> {
    let schema = name(&roles.schema)?;
    let (owner, server, reader) = (&roles.owner.name, &roles.server.name, &roles.reader.name);
    let mut sql = vec!["SET LOCAL standard_conforming_strings = on;\n".to_owned()];
    for role in [&roles.owner, &roles.server, &roles.reader] {
        sql.push(role_statement(role, new_roles.contains(&role.name))?);
        sql.push(format!(
            "DO $do$ BEGIN EXECUTE format('ALTER ROLE {} IN DATABASE %I SET search_path = {schema}', \
             current_database()); END $do$;\n",
            role.name
        ));
    }
    sql.push(format!(
        "GRANT {owner} TO CURRENT_USER;\nCREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner};\n\
         GRANT USAGE ON SCHEMA {schema} TO {server}, {reader};\n"
    ));
    Ok(sql.concat())
}

/// What is done as the owner, once the tables are there.
fn grant(roles: &Roles) -> String {
    let (owner, server, reader, schema) = (&roles.owner.name, &roles.server.name, &roles.reader.name, &roles.schema);
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {server};\n\
         GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {server};\n\
         ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} \
         GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {server};\n\
         ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT USAGE, SELECT ON SEQUENCES TO {server};\n\
         REVOKE UPDATE, DELETE ON journal FROM {server};\n\
         REVOKE INSERT, DELETE ON journal_head FROM {server};\n\
         REVOKE INSERT, UPDATE, DELETE ON muster_schema FROM {server};\n\
         GRANT SELECT ON {READABLE} TO {reader};\n\
         GRANT SELECT ({READABLE_OF_INVESTIGATORS}) ON investigators TO {reader};\n"
    )
}

/// Makes roles, schema, tables and rights.
pub(crate) async fn postgres_create(target: &Target, roles: &Roles) -> Result<Created, StoreError> {
    let names = [&roles.owner.name, &roles.server.name, &roles.reader.name];
    if names[0] == names[1] || names[1] == names[2] || names[0] == names[2] {
        return Err(StoreError::Refused("owner, server and reader must be three roles".to_owned()));
    }
    for text in names {
        name(text)?;
    }
    let mut client = target.connect().await?;
    let transaction = client.transaction().await.map_err(refuse)?;
    // Of two that try at once, one waits.
    transaction.batch_execute(schema::LOCK).await.map_err(refuse)?;
    let mut new_roles = Vec::new();
    for name in names {
        let known = transaction.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1::text", &[name]).await;
        if known.map_err(refuse)?.is_none() {
            new_roles.push(name.clone());
        }
    }
    transaction.batch_execute(&prepare(roles, &new_roles)?).await.map_err(refuse)?;
    let own = format!("SET LOCAL ROLE {}; SET LOCAL search_path = {}", roles.owner.name, roles.schema);
    transaction.batch_execute(&own).await.map_err(refuse)?;
    let had = schema::postgres_steps(&transaction).await?;
    transaction.batch_execute(&grant(roles)).await.map_err(refuse)?;
    transaction.commit().await.map_err(refuse)?;
    Ok(Created { had, new_roles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_stay_what_they_are() {
        for bad in ["", "1a", "a-b", "Role", "a;b", "ä", &"a".repeat(64)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(name("muster_server").unwrap(), "muster_server");
        assert_eq!(literal("it's \\ $do$").unwrap(), "'it''s \\ $do$'");
        let role = Role { name: "a".into(), password: Password::Set("secret".into()) };
        assert!(!format!("{role:?}").contains("secret"));
    }

    #[test]
    fn a_role_that_is_there_keeps_its_password_unless_another_is_given() {
        let sql = |password, is_new| role_statement(&Role { name: "a".into(), password }, is_new).unwrap();
        assert_eq!(sql(Password::SetIfNew("p".into()), true), "CREATE ROLE a LOGIN PASSWORD 'p';\n");
        assert_eq!(sql(Password::SetIfNew("p".into()), false), "");
        assert_eq!(sql(Password::Set("p".into()), false), "ALTER ROLE a LOGIN PASSWORD 'p';\n");
        assert_eq!(sql(Password::Keep, true), "CREATE ROLE a LOGIN;\n");
        assert_eq!(sql(Password::Keep, false), "");
    }
}
