//! Files.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A file.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FileRow {
    /// The service it belongs to.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// SHA-256 of the whole, hexadecimal.
    pub sha256: String,
    /// When it was put.
    pub modified: String,
}

/// Which files a list holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct FileQuery {
    /// Only of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where the last page ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Rows on the page, 1 to 1000; 100 unless told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
