//! Versions of packages, compared as rpm compares them: epoch, version, release.

use std::cmp::Ordering;
use std::collections::VecDeque;

/// Compares two versions such as `1:9.9.5.dfsg-4.3`.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (parts(a), parts(b));
    a.0.cmp(&b.0).then_with(|| segments(a.1, b.1)).then_with(|| segments(a.2, b.2))
}

/// Returns epoch, version and release.
fn parts(text: &str) -> (u64, &str, &str) {
    let epoch = text.split_once(':').and_then(|(epoch, rest)| Some((epoch.parse().ok()?, rest)));
    let (epoch, rest) = epoch.unwrap_or((0, text));
    let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, version, release)
}

/// Compares runs of digits and runs of letters, in turn. Numbers are newer than letters, more is newer than less.
fn segments(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (runs(a), runs(b));
    loop {
        let (left, right) = match (a.pop_front(), b.pop_front()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => (left, right),
        };
        let number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = match (number(left), number(right)) {
            (true, true) => {
                let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
                left.len().cmp(&right.len()).then_with(|| left.cmp(right))
            }
            (left_is, right_is) => left_is.cmp(&right_is).then_with(|| left.cmp(right)),
        };
        if order.is_ne() {
            return order;
        }
    }
}

fn runs(text: &str) -> VecDeque<&str> {
    let mut runs = VecDeque::new();
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c: char| c.is_ascii_digit() != first.is_ascii_digit()).unwrap_or(rest.len());
            runs.push_back(&rest[..end]);
            rest = &rest[end..];
        }
    }
    runs
}
