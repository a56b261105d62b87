//! The one judgement by which a machine decides whether to act on an order.
//!
//! Stays true: cheap questions come first; each refusal has a code; what is accepted is handed out as it was signed, not
//! as it was delivered; nothing that the deliverer says of the order counts. Not here: writing the ledger, which the
//! caller does, durably, before anything runs.

#[cfg(test)]
mod tests;

use crate::canonical::{go_json, signed_text};
use crate::keyring::Keyring;
use crate::ledger::{LedgerKey, Seen};
use crate::refusal::{Refusal, RefusalCode};
use crate::signature::{Signed, verify};
use crate::weights::Acl;
use muster_core::action::ActionError;
use muster_core::{Action, Timestamp, limits};
use std::collections::BTreeSet;
use std::time::Duration;

/// What an accepted signature is worth.
#[derive(Debug, Clone, Copy)]
pub enum Authority<'a> {
    /// What the list of weights says.
    Weights(&'a Acl),
    /// Any key of the keyring may run anything: MIG's `onlyverifypubkey`.
    AnyKey,
}

/// Whether an order's target means this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetMatch {
    /// It does.
    Matches,
    /// Nobody but the server could say, because of these questions.
    Open(Vec<String>),
    /// It means others.
    Other,
    /// It is no expression, for this reason.
    Invalid(String),
}

/// What is known of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module {
    /// The least weight that it declares for itself.
    pub minimum_weight: u32,
    /// Whether it changes something on the machine.
    pub changes: bool,
}

/// All that the judgement needs of the world.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// What the machine's clock says.
    pub now: Timestamp,
    /// The latest moment that the machine knows to be past; it only rises, and survives restarts.
    pub floor: Timestamp,
    /// The longest window; [`limits::ACTION_WINDOW_MAX`] unless configured.
    pub window_max: Duration,
    /// When the keyring or the weights in force expire, whichever is sooner, if they came as documents.
    pub trust_expires: Option<Timestamp>,
    /// Whose signatures are looked at.
    pub keyring: &'a Keyring,
    /// What they are worth.
    pub authority: Authority<'a>,
    /// What the ledger says of an order.
    pub ledger: &'a dyn Fn(&LedgerKey) -> Seen,
    /// Whether a target means this machine.
    pub target: &'a dyn Fn(&str) -> TargetMatch,
    /// Which modules there are.
    pub module: &'a dyn Fn(&str) -> Option<Module>,
}

/// An order that may be run, once its key stands in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The order. Its id, description and threat are not signed: they are shown, and nothing more.
    pub action: Action,
    /// The parameters of each operation as signed, in the same order: these are what a module is given.
    pub parameters: Vec<String>,
    /// Its name in the ledger.
    pub key: LedgerKey,
    /// Who signed, each key once.
    pub signers: Vec<Signed>,
    /// The latest moment that its signers vouch for to be past: the time floor rises to it before anything runs.
    pub floor: Timestamp,
}

/// Judges an order that was delivered as `json`.
pub fn judge(json: &[u8], world: &World<'_>) -> Result<Accepted, Refusal> {
    let action = Action::parse(json).map_err(|error| refused_format(&error))?;
    // A clock may stand behind a little: then the floor is nearer to the truth.
    let now = world.now.max(world.floor);
    action.check(now).map_err(|error| outside(&action, world, &error))?;
    time_check(&action, now, world)?;
    let text = signed_text(&action).map_err(|error| refuse(RefusalCode::Parameters, error.to_string()))?;
    let key = LedgerKey::of(&text);
    ledger_check(&action, (world.ledger)(&key))?;
    let target = (world.target)(&action.target);
    target_check(&action, &target)?;
    let declared = modules_check(&action, world.module)?;
    decided_check(&action, &target, &declared)?;
    let signers = signers(&action, &text, world.keyring, now)?;
    weight_check(&action, &declared, &signers, world.authority)?;
    let parameters = action.operations.iter().map(|operation| go_json(operation.parameters.as_str()));
    let parameters = parameters.collect::<Result<_, _>>();
    let parameters = parameters.map_err(|error| refuse(RefusalCode::Parameters, error.to_string()))?;
    // A signer's clock may run ahead of ours, within what is allowed; the floor never runs ahead of it.
    let signed = signers.iter().map(|signed| signed.made).filter(|made| *made <= now).max();
    let floor = signed.unwrap_or(Timestamp::EPOCH);
    Ok(Accepted { action, parameters, key, signers, floor })
}

/// Whether a copy of an order is signed well enough to be run, whatever else speaks against it: every signature of it is
/// good, and together they weigh enough for those of its modules that there are. `module` says which there are.
pub fn is_signed(
    action: &Action,
    (keyring, authority): (&Keyring, Authority<'_>),
    module: &dyn Fn(&str) -> Option<Module>,
    now: Timestamp,
) -> bool {
    // Its window is signed; what else makes it unusable anybody could have put there.
    let is_usable = matches!(action.check(now), Ok(()) | Err(ActionError::Expired));
    if !is_usable || action.pgp_signatures.len() > limits::ACTION_SIGNATURES_MAX {
        return false;
    }
    let Ok(text) = signed_text(action) else { return false };
    let declared: Vec<_> = action.operations.iter().map(|operation| module(&operation.module)).collect();
    signers(action, &text, keyring, now)
        .is_ok_and(|signers| !signers.is_empty() && weight_check(action, &declared, &signers, authority).is_ok())
}

fn clock_check(world: &World<'_>) -> Result<(), Refusal> {
    if world.now.plus(limits::TIME_FLOOR_SLACK) < world.floor {
        let text = format!(
            "the clock says {}, but {} is known to be past, so it is at least {} behind: set the clock. If it was ahead before \
             and is right now, `muster-agent clock reset` on the machine, or a document of administrators (`muster trust new \
             clock`), makes it forget that",
            second(world.now),
            second(world.floor),
            apart(world.now, world.floor)
        );
        return Err(refuse(RefusalCode::ClockBehind, text));
    }
    Ok(())
}

fn time_check(action: &Action, now: Timestamp, world: &World<'_>) -> Result<(), Refusal> {
    clock_check(world)?;
    if let Some(expires) = world.trust_expires.filter(|expires| now > *expires) {
        let text = format!("the keyring or the weights expired at {expires}, and none newer came");
        return Err(refuse(RefusalCode::TrustExpired, text));
    }
    action.window_check(now).map_err(|error| outside(action, world, &error))?;
    action.window_length_check(world.window_max).map_err(|error| refused_format(&error))
}

/// A refusal for the window says what the machine's clock says: it may be the clock that is wrong. Where that is known, it
/// is the reason.
fn outside(action: &Action, world: &World<'_>, error: &ActionError) -> Refusal {
    if let (ActionError::Expired, Err(behind)) = (error, clock_check(world)) {
        return behind;
    }
    let Refusal { code, text } = refused_format(error);
    let now = world.now.max(world.floor);
    let (first, last) = action.signed_window();
    let by = match error {
        ActionError::Expired => format!("{} ago", apart(last, now)),
        ActionError::TooEarly => format!("in {}", apart(now, first)),
        _ => return refuse(code, text),
    };
    let clock = second(world.now);
    refuse(code, format!("{text} ({by}, by this machine's clock, which says {clock})"))
}

/// A moment without its fraction.
fn second(moment: Timestamp) -> Timestamp {
    Timestamp::from_secs(moment.to_parts().0)
}

/// How far apart two moments are, for people.
fn apart(earlier: Timestamp, later: Timestamp) -> String {
    let seconds = later.since(earlier).as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn ledger_check(action: &Action, seen: Seen) -> Result<(), Refusal> {
    let (code, text) = match seen {
        Seen::Never { since: None } => return Ok(()),
        Seen::Never { since: Some(since) } if action.valid_from >= since => return Ok(()),
        Seen::Never { since: Some(since) } => {
            let text = format!(
                "the ledger began at {since}, after the action was valid: it may have run before; sign it again, valid from \
                 now on"
            );
            (RefusalCode::BeforeLedger, text)
        }
        Seen::Started => (RefusalCode::AlreadyRun, "the action was begun before".to_owned()),
        Seen::Finished => (RefusalCode::AlreadyRun, "the action was run before".to_owned()),
        Seen::Cancelled => (RefusalCode::Cancelled, "the action was called back".to_owned()),
        Seen::Unreadable => {
            (RefusalCode::LedgerUnreadable, "the ledger of what was run cannot be read: nothing runs".to_owned())
        }
    };
    Err(refuse(code, text))
}

fn target_check(action: &Action, answer: &TargetMatch) -> Result<(), Refusal> {
    match answer {
        TargetMatch::Matches | TargetMatch::Open(_) => Ok(()),
        TargetMatch::Other => {
            let text =
                format!("this machine does not match the target {:?}", muster_core::text::cut(&action.target, 200));
            Err(refuse(RefusalCode::NotForThisAgent, text))
        }
        TargetMatch::Invalid(problem) => Err(refuse(RefusalCode::TargetInvalid, problem.clone())),
    }
}

/// A server could send what hangs on its own word, or on what it can have a machine change, to whatever machine it likes.
/// For a question that is its right: it chooses whom it asks. What changes a machine is run only where the machine itself
/// knows that it is meant.
fn decided_check(action: &Action, answer: &TargetMatch, declared: &[Option<Module>]) -> Result<(), Refusal> {
    let TargetMatch::Open(questions) = answer else { return Ok(()) };
    let mut modules = action.operations.iter().zip(declared);
    let Some((operation, _)) = modules.find(|(_, module)| module.is_some_and(|module| module.changes)) else {
        return Ok(());
    };
    let text = format!(
        "module {} changes the machine, and whether this one is meant hangs on what only the server knows or can change \
         ({}): sign it again for a target that the machine can decide, such as agentid = '…', or agentid IN ('…', '…') with \
         every id that the machine had",
        operation.module,
        muster_core::text::cut(&questions.join(", "), 400),
    );
    Err(refuse(RefusalCode::TargetUndecidable, text))
}

/// Returns what each operation's module declares; `None` for a module that is not there, whose operation is answered with
/// that. An order of which nothing could be run is refused.
fn modules_check(action: &Action, module: &dyn Fn(&str) -> Option<Module>) -> Result<Vec<Option<Module>>, Refusal> {
    let declared: Vec<_> = action.operations.iter().map(|operation| module(&operation.module)).collect();
    let missing = action.operations.iter().zip(&declared).find(|(_, declared)| declared.is_none());
    match missing {
        Some((operation, _)) if declared.iter().all(Option::is_none) => {
            let text = format!("there is no module {:?} on this machine", operation.module);
            Err(refuse(RefusalCode::UnknownModule, text))
        }
        _ => Ok(declared),
    }
}

/// Verifies every signature: one that is bad spoils the order, whatever the others are worth. Returns each signer once.
fn signers(action: &Action, text: &str, keyring: &Keyring, now: Timestamp) -> Result<Vec<Signed>, Refusal> {
    let mut signers: Vec<Signed> = Vec::new();
    for (at, signature) in action.pgp_signatures.iter().enumerate() {
        let signed = verify(keyring, signature, text.as_bytes(), now)
            .map_err(|error| refuse(error.code(), format!("signature {}: {error}", at + 1)))?;
        if !signers.iter().any(|have| have.signer == signed.signer) {
            signers.push(signed);
        }
    }
    Ok(signers)
}

fn weight_check(
    action: &Action,
    declared: &[Option<Module>],
    signers: &[Signed],
    authority: Authority<'_>,
) -> Result<(), Refusal> {
    let Authority::Weights(acl) = authority else { return Ok(()) };
    // What is not there is not run, so it needs no weight.
    let modules = action.operations.iter().zip(declared);
    let modules = modules.filter_map(|(operation, declared)| {
        declared.map(|declared| (operation.module.as_str(), declared.minimum_weight))
    });
    let signers: BTreeSet<_> = signers.iter().map(|signed| signed.signer.clone()).collect();
    acl.permit(modules, &signers).map_err(|error| refuse(RefusalCode::Weight, error.to_string()))
}

fn refused_format(error: &ActionError) -> Refusal {
    let code = match error {
        ActionError::TooMany { what: "bytes", .. } => RefusalCode::TooLarge,
        ActionError::Json { .. } | ActionError::TooMany { what: "levels of nesting", .. } => RefusalCode::Malformed,
        ActionError::Expired => RefusalCode::Expired,
        ActionError::TooEarly => RefusalCode::NotYetValid,
        ActionError::WindowTooLong { .. } => RefusalCode::WindowTooLong,
        ActionError::Ambiguous { .. } => RefusalCode::Ambiguous,
        _ => RefusalCode::Invalid,
    };
    refuse(code, error.to_string())
}

fn refuse(code: RefusalCode, text: String) -> Refusal {
    Refusal { code, text }
}
