//! Whether the machines themselves can decide that they are meant, before anybody signs.
//!
//! Stays true: what changes machines is signed only where no server's word decides which ones, and nothing that a server can
//! have them change. Not here: what a machine makes of a target (muster-core), which refuses it as well; the ids that a
//! machine had before, which only that machine knows.

use crate::Failure;
use muster_core::Action;
use muster_core::target::Target;
use muster_modules::{Effect, registry};

/// Refuses to sign what changes machines where only the server could say, or could change, which ones are meant.
pub(crate) fn check(what: &str, action: &Action) -> Result<(), Failure> {
    let open = open_questions(action);
    if open.is_empty() || !changes_machines(action) {
        return Ok(());
    }
    let why = format!(
        "it changes machines, and which ones are meant only the server could say, or could change ({}): whoever holds the \
         server could have it run anywhere, so machines refuse it",
        open.join(", ")
    );
    Err(Failure::usage(what, why).on(&action.target).next(
        "name machines by what they know themselves: agentid = '…' (`muster agent list` shows the ids), name, tags; leave out \
         status = 'online', since an action goes to machines that are online or idle anyway; pid and starttime are others \
         after each start of an agent: to choose by its program, ask for its version",
    ))
}

/// Whether a module changes machines, as far as it is known here. Machines know it of all that they have.
fn changes_machines(action: &Action) -> bool {
    let changes = |module: &str| registry::find(module).is_some_and(|module| module.info().effect == Effect::Changes);
    action.operations.iter().any(|operation| changes(&operation.module))
}

/// Returns what to say of what only asks, or may: a server chooses anyway whom it asks.
///
/// That machines are in contact is asked by every question that is put at once, and nothing to warn of.
pub(super) fn warning(action: &Action) -> Option<String> {
    let open = open_questions(action);
    if open.iter().all(|question| question == "status = 'online'") {
        return None;
    }
    let open = open.join(", ");
    Some(format!(
        "warning: which machines are meant hangs on what only the server knows or can change ({open}); modules that change \
         something are refused so"
    ))
}

/// A target that cannot be read is refused elsewhere.
fn open_questions(action: &Action) -> Vec<String> {
    Target::parse(&action.target).map(|target| target.open_questions()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(module: &str, target: &str) -> Action {
        let json = serde_json::json!({"target": target, "operations": [{"module": module, "parameters": {}}]});
        Action::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_changes_machines_is_not_signed_for_whom_the_server_likes() {
        let failure = check("could not sign", &action("agentdestroy", "id = 7")).unwrap_err();
        assert!(failure.why.contains("(id = 7)") && failure.next.contains("agentid = "), "{failure:?}");
        for fleeting in ["pid = 42", "name = 'x' AND starttime < NOW() - INTERVAL '1 day'"] {
            let failure = check("could not sign", &action("agentdestroy", fleeting)).unwrap_err();
            assert!(failure.why.contains("could change") && failure.next.contains("pid and starttime"), "{failure:?}");
        }
        let online = action("agentdestroy", "name = 'x' AND status = 'online'");
        assert!(check("could not sign", &online).unwrap_err().why.contains("(status = 'online')"));
        assert!(check("could not sign", &action("agentdestroy", "agentid = '0011223344556677'")).is_ok());
        assert!(check("could not sign", &action("file", "id = 7")).is_ok(), "a question may be asked anywhere");
        assert!(warning(&action("file", "id = 7")).unwrap().contains("(id = 7)"));
        assert_eq!(warning(&action("file", "status='online'")), None);
        assert_eq!(warning(&action("file", "name = 'x'")), None);
    }
}
