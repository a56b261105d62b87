//! A service that takes every message and forgets it.

use async_trait::async_trait;
use muster_core::{Message, limits};
use muster_engine::{Service, ServiceError};

/// Takes and forgets.
#[derive(Debug)]
pub struct NoopService {
    name: String,
}

impl NoopService {
    /// A service of this name.
    pub fn new(name: String) -> Self {
        Self { name }
    }
}

#[async_trait]
impl Service for NoopService {
    fn name(&self) -> &str {
        &self.name
    }

    fn parallelism(&self) -> u32 {
        limits::SERVICE_PARALLELISM
    }

    fn discards(&self) -> bool {
        true
    }

    async fn process(&self, _: &Message) -> Result<(), ServiceError> {
        Ok(())
    }
}
