//! The list of routes, and the OpenAPI document that is made from it.

use super::{
    Rest, actions, agents, broadcasts, enrolment, events, files, health, investigators, messages, orders, reports,
    results, server, services, targets, tokens, trust,
};
use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http::header;
use muster_api::Problem;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What stands above the document.
const ABOUT: &str = "Machines, messages, broadcasts, files and targets of a Muster server. Send `authorization: Bearer TOKEN`. \
    Ids are lower-case hexadecimal, times are RFC 3339, bytes are standard base64, lengths of time are written like 2h \
    or 30d. Unknown fields, keys that come twice, zero bytes and numbers beyond 2^53 are refused. Lists come in pages: \
    give `next` as `cursor` to get the next; a `limit` is moved into 1 to 1000. Every failure is a problem document \
    (RFC 9457) whose `type` is a stable word.";

/// All routes, and their document.
pub(crate) fn routes() -> (Router<Rest>, OpenApi) {
    let (router, mut document) = OpenApiRouter::with_openapi(frame())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .routes(routes!(agents::agent_list))
        .routes(routes!(agents::agent_get, agents::agent_delete))
        .routes(routes!(orders::agent_block))
        .routes(routes!(orders::agent_unblock))
        .routes(routes!(orders::agent_approve))
        .routes(routes!(orders::agent_clone_clear))
        .routes(routes!(orders::agent_rekey))
        .routes(routes!(orders::label_put, orders::label_delete))
        .routes(routes!(agents::contact_list))
        .routes(routes!(agents::usage_list))
        .routes(routes!(events::event_list))
        .routes(routes!(events::dead_letter_list))
        .routes(routes!(enrolment::enrol_token_list, enrolment::enrol_token_create))
        .routes(routes!(enrolment::enrol_token_delete))
        .routes(routes!(messages::message_list, messages::message_create))
        .routes(routes!(messages::message_get))
        .routes(routes!(messages::message_answers))
        .routes(routes!(messages::message_cancel))
        .routes(routes!(messages::message_retry))
        .routes(routes!(broadcasts::broadcast_list, broadcasts::broadcast_create))
        .routes(routes!(broadcasts::broadcast_get))
        .routes(routes!(broadcasts::broadcast_disable))
        .routes(routes!(files::file_list))
        .routes(routes!(files::file_get, files::file_put, files::file_delete))
        .routes(routes!(actions::action_list, actions::action_create))
        .routes(routes!(actions::action_preview))
        .routes(routes!(actions::action_get))
        .routes(routes!(actions::action_preview_stored))
        .routes(routes!(actions::action_sign))
        .routes(routes!(actions::action_cancel))
        .routes(routes!(actions::action_resume))
        .routes(routes!(results::command_list))
        .routes(routes!(results::result_list))
        .routes(routes!(results::late_result_list))
        .routes(routes!(investigators::investigator_list, investigators::investigator_create))
        .routes(routes!(investigators::investigator_get))
        .routes(routes!(investigators::investigator_disable))
        .routes(routes!(investigators::investigator_enable))
        .routes(routes!(investigators::investigator_permissions))
        .routes(routes!(investigators::investigator_key))
        .routes(routes!(investigators::investigator_weight))
        .routes(routes!(investigators::module_list))
        .routes(routes!(investigators::module_minimum))
        .routes(routes!(reports::report_get))
        .routes(routes!(reports::journal_verify))
        .routes(routes!(trust::trust_document_send))
        .routes(routes!(trust::trust_status))
        .routes(routes!(targets::target_check))
        .routes(routes!(targets::named_target_list))
        .routes(routes!(targets::named_target_put, targets::named_target_delete))
        .routes(routes!(services::service_list))
        .routes(routes!(server::journal_list))
        .routes(routes!(server::server_get))
        .routes(routes!(server::doctor))
        .routes(routes!(server::agent_trust))
        .routes(routes!(server::backup))
        .routes(routes!(tokens::token_list, tokens::token_create))
        .routes(routes!(tokens::token_delete))
        .split_for_parts();
    complete(&mut document);
    (router, document)
}

/// The route that shows the document. It is written once, at the start.
pub(crate) fn document_route(document: &OpenApi) -> Router<Rest> {
    let text = Bytes::from(text(document));
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], text).into_response() };
    Router::new().route("/api/openapi.json", get(answer))
}

/// The document as it is served and kept beside the code.
pub(crate) fn text(document: &OpenApi) -> String {
    document.to_pretty_json().expect("a document of plain values") + "\n"
}

fn frame() -> OpenApi {
    let info = InfoBuilder::new().title("Muster").version("1").description(Some(ABOUT)).build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what is the same for all routes: the token, and the form of failures.
fn complete(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
    let failure = ResponseBuilder::new().description("A failure").content("application/problem+json", problem).build();
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".into(), RefOr::T(failure.clone()));
            if path.starts_with(muster_api::ROOT) {
                operation.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
            }
        }
    }
}
