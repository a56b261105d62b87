//! The admin gRPC API, as far as the load program uses it.

use crate::wire::{Empty, Message};
use anyhow::{Context, Result};
use std::time::Duration;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

const CALL_CEILING: Duration = Duration::from_secs(30);

/// A client of the admin door of either server.
#[derive(Debug, Clone)]
pub struct Admin {
    grpc: tonic::client::Grpc<Channel>,
}

impl Admin {
    /// Connects to `ip:port`.
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = Channel::from_shared(format!("http://{address}")).context("naming the admin door")?;
        let channel = endpoint.connect().await.with_context(|| format!("connecting to the admin door {address}"))?;
        Ok(Self { grpc: tonic::client::Grpc::new(channel) })
    }

    /// Inserts a message.
    pub async fn insert(&mut self, message: Message) -> Result<()> {
        self.grpc.ready().await.context("waiting for the admin door")?;
        let codec = tonic_prost::ProstCodec::<Message, Empty>::default();
        let path = PathAndQuery::from_static("/fleetspeak.server.Admin/InsertMessage");
        let mut request = tonic::Request::new(message);
        request.set_timeout(CALL_CEILING);
        self.grpc.unary(request, path, codec).await.map(drop).context("inserting a message")
    }
}
