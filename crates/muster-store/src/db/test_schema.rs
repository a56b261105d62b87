//! A schema of its own on the PostgreSQL of the conformance suite, for tests that must see statements.

use super::postgres::Target;
use crate::StoreOptions;
use tokio_postgres::Client;

#[path = "../../tests/conformance/postgres.rs"]
mod server;

/// An empty schema.
pub(crate) struct TestSchema {
    name: String,
    pub(crate) url: String,
    /// A connection past the store.
    pub(crate) client: Client,
}

impl TestSchema {
    /// Makes one; `name` tells the tests of this process apart.
    pub(crate) async fn new(name: &str) -> Self {
        let name = format!("{name}_{}", std::process::id());
        let base = server::url();
        let sign = if base.contains('?') { '&' } else { '?' };
        let url = format!("{base}{sign}options=-c%20search_path%3D{name}");
        let client = Target::parse(&url, &StoreOptions::default()).unwrap().connect().await.unwrap();
        client.batch_execute(&format!("CREATE SCHEMA {name}")).await.unwrap();
        Self { name, url, client }
    }

    pub(crate) async fn run(&self, statement: &str) {
        self.client.batch_execute(statement).await.unwrap();
    }

    pub(crate) async fn remove(self) {
        self.run(&format!("DROP SCHEMA {} CASCADE", self.name)).await;
    }
}
