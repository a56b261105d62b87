//! Reports about the fleet, and whether the journal is whole.

use super::Rest;
use super::input::{Args, Names};
use super::pages::Paging;
use super::problem::{Doing, Failure};
use axum::Json;
use axum::extract::State;
use muster_api::Page;
use muster_api::reports::{JournalFault, JournalVerified, JournalVerifyQuery, ReportRow};
use muster_api::server::PageQuery;
use muster_core::limits;
use muster_store::journal::JournalPoint;
use muster_store::reports::{self, Report};

/// Shows a report: names that are offline, machines with two agents or that flap, machines that disappeared, versions.
#[utoipa::path(get, path = "/api/v1/reports/{report}", tag = "reports",
    params(("report" = String, Path, description = "`offline`, `double`, `flapping`, `disappeared` or `versions`"), PageQuery),
    responses((status = 200, body = Page<ReportRow>)))]
pub(crate) async fn report_get(
    State(rest): State<Rest>,
    Names(report): Names<String>,
    Args(query): Args<PageQuery>,
) -> Result<Json<Page<ReportRow>>, Failure> {
    let (list, report) = named(&report)?;
    let paging = Paging::new(list, query.cursor.as_deref(), query.limit)?;
    let offset: u64 = paging.after()?.unwrap_or(0);
    let rows = rest.engine.store().report(report, rest.clock.now(), offset, paging.rows()).await;
    let rows = rows.doing("make the report")?;
    let shown = rows.len().min(paging.rows() as usize - 1) as u64;
    let page = paging.cut(rows, |_| offset.saturating_add(shown).to_string());
    Ok(Json(Paging::map(page, show)))
}

fn named(report: &str) -> Result<(&'static str, Report), Failure> {
    Ok(match report {
        "offline" => ("offline", Report::Offline),
        "double" => ("double", Report::Double),
        "flapping" => ("flapping", Report::Flapping),
        "disappeared" => ("disappeared", Report::Disappeared),
        "versions" => ("versions", Report::Versions),
        _ => {
            let text = "there are the reports offline, double, flapping, disappeared and versions";
            return Err(Failure::not_found(text));
        }
    })
}

fn show(row: reports::ReportRow) -> ReportRow {
    ReportRow {
        name: row.name,
        queueloc: row.queueloc,
        agent: row.agent.map(|agent| agent.to_string()),
        count: row.count,
        last_seen: row.last_seen.to_string(),
    }
}

/// Verifies a part of the journal's chain.
#[utoipa::path(get, path = "/api/v1/journal/verify", tag = "server", params(JournalVerifyQuery), responses((status = 200, body = JournalVerified)))]
pub(crate) async fn journal_verify(
    State(rest): State<Rest>,
    Args(query): Args<JournalVerifyQuery>,
) -> Result<Json<JournalVerified>, Failure> {
    let limit = query.limit.unwrap_or(limits::PAGE_ROWS_MAX).clamp(1, limits::PAGE_ROWS_MAX);
    let after = query.cursor.as_deref().map(point).transpose()?;
    let verified = rest.engine.store().journal_verify(after, limit).await.doing("verify the journal")?;
    Ok(Json(JournalVerified {
        lines: verified.lines,
        unchained: verified.unchained,
        fault: verified.fault.map(|fault| JournalFault { number: fault.number, what: fault.what }),
        next: verified.next.map(|point| format!("{}-{}", point.number, hex::encode(point.hash))),
        head: verified.head.number,
        head_sha256: hex::encode(verified.head.hash),
    }))
}

/// Reads where a part ended, as it was written.
fn point(cursor: &str) -> Result<JournalPoint, Failure> {
    let parts = cursor.split_once('-').and_then(|(number, hash)| {
        let hash = hex::decode(hash).ok().filter(|hash| hash.len() <= 32)?;
        Some(JournalPoint { number: number.parse().ok()?, hash })
    });
    parts.ok_or_else(|| {
        Failure::invalid("the cursor is none of the journal's parts: leave it out to start from the beginning")
    })
}
