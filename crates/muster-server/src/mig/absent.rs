//! Loaders and manifests, which there are none of: agents come and are brought up to date in Muster's own ways. What is
//! asked about them is answered as MIG answers about things that are not there.

use super::access::NO_ROUTE;
use super::body::Form;
use super::envelope::Refused;
use super::query::Params;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

fn unknown(params: &Params, thing: &str) -> Refused {
    let id = params.id(&format!("{}id", thing.to_ascii_lowercase()), thing);
    id.map_or_else(|refused| refused, |id| Refused::not_found(format!("{thing} ID '{id}' not found")))
}

pub(super) async fn loader(params: Params) -> Refused {
    unknown(&params, "Loader")
}

pub(super) async fn loader_change(Form(params): Form) -> Refused {
    unknown(&params, "Loader")
}

pub(super) async fn manifest(params: Params) -> Refused {
    unknown(&params, "Manifest")
}

pub(super) async fn manifest_change(Form(params): Form) -> Refused {
    unknown(&params, "Manifest")
}

pub(super) async fn manifest_loaders(params: Params) -> Refused {
    unknown(&params, "Manifest")
}

/// Makes a loader or a manifest: there is no place for one.
pub(super) async fn create() -> Refused {
    Refused::not_found(
        "there are no loaders and manifests here: machines enrol by themselves, see `muster agent config`",
    )
}

/// What the layer does not let through; said here too, so that no route is open without it.
pub(super) async fn never() -> Response {
    (StatusCode::NOT_FOUND, NO_ROUTE).into_response()
}
