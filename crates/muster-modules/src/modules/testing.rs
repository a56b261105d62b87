//! What tests of modules share.

use crate::module::Context;
use crate::result::ModuleResult;
use muster_core::{Clock, Timestamp};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// A clock that stands still.
#[derive(Debug)]
pub(crate) struct Still(pub(crate) Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// The world of a machine whose files lie below `root`, at a fixed moment.
pub(crate) fn context(root: &Path) -> Context {
    let now = "2026-11-20T13:39:47Z".parse().unwrap();
    Context { root: root.to_owned(), ..Context::new(Arc::new(Still(now))) }
}

/// An input that people met elsewhere, by its path below `fixtures/cases`.
pub(crate) fn case(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cases").join(path)
}

/// Copies an input below a machine's root to where the machine has it.
pub(crate) fn lay(root: &Path, to: &str, from: &str) {
    let to = root.join(to);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(case(from), to).unwrap();
}

/// A result that the original gave.
pub(crate) fn fixture(name: &str) -> ModuleResult {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(format!("{name}.json"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Demands that two results have the same fields of the same kinds, and the same outcome.
pub(crate) fn same_form(have: &ModuleResult, want: &ModuleResult) {
    let (have, want) = (serde_json::to_value(have).unwrap(), serde_json::to_value(want).unwrap());
    for field in ["foundanything", "success"] {
        assert_eq!(have[field], want[field], "{field} of {have:#}");
    }
    same_fields("", &have, &want);
}

fn same_fields(at: &str, have: &Value, want: &Value) {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            assert_eq!(have.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "fields at {at:?}");
            for (field, want) in want {
                same_fields(&format!("{at}.{field}"), &have[field], want);
            }
        }
        (Value::Array(have), Value::Array(want)) => {
            for (have, want) in have.iter().zip(want) {
                same_fields(&format!("{at}[]"), have, want);
            }
        }
        _ => assert_eq!(std::mem::discriminant(have), std::mem::discriminant(want), "{at}: {have} and {want}"),
    }
}

/// Demands that a result without elements is printed as its errors and nothing that nobody measured.
pub(crate) fn prints_no_more_than_errors<T: crate::module::Typed>(besides: &[&str]) {
    use crate::module::Lines;
    let failed = ModuleResult::failed("why");
    assert_eq!(T::lines(&failed, Lines::Found), [""; 0]);
    let lines = T::lines(&failed, Lines::All);
    let [error, rest @ ..] = &lines[..] else { panic!("it says nothing") };
    assert!(error.ends_with("why") && rest == besides, "{lines:?}");
}
