//! Versions of packages: epoch, version and release, in the order of the program that manages the package.
//!
//! Stays true: dpkg's order is that of Debian Policy 5.6.12, rpm's that of its version comparison, with `~` before the end
//! of a version and, for rpm, `^` after it. Numbers have no limit.

use std::cmp::Ordering;

/// Whose order counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// dpkg's.
    Dpkg,
    /// rpm's; also for what is no package, as the original does it.
    #[default]
    Rpm,
}

impl Order {
    /// Returns the order for packages of this kind.
    pub(super) fn of(kind: &str) -> Self {
        if kind == "dpkg" { Self::Dpkg } else { Self::Rpm }
    }

    /// Compares two versions such as `1:9.9.5.dfsg-4.3`.
    pub(super) fn compare(self, a: &str, b: &str) -> Ordering {
        let (a, b) = (parts(a), parts(b));
        let compare = match self {
            Self::Dpkg => dpkg,
            Self::Rpm => rpm,
        };
        numbers(a.0.as_bytes(), b.0.as_bytes())
            .then_with(|| compare(a.1.as_bytes(), b.1.as_bytes()))
            .then_with(|| compare(a.2.as_bytes(), b.2.as_bytes()))
    }
}

/// Returns epoch, version and release. No epoch, and rpm's word for none, is 0.
fn parts(text: &str) -> (&str, &str, &str) {
    let is_epoch = |epoch: &str| !epoch.is_empty() && epoch.bytes().all(|digit| digit.is_ascii_digit());
    let (epoch, rest) = match text.split_once(':') {
        Some(("(none)", rest)) => ("0", rest),
        Some((epoch, rest)) if is_epoch(epoch) => (epoch, rest),
        _ => ("0", text),
    };
    let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, version, release)
}

/// Compares runs of digits by value.
fn numbers(a: &[u8], b: &[u8]) -> Ordering {
    let value = |digits: &[u8]| digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    let (a, b) = (&a[value(a)..], &b[value(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Splits off the bytes in front that are of one kind.
fn run<'a>(text: &mut &'a [u8], is_of_kind: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = text.iter().position(|byte| !is_of_kind(byte)).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

/// Text without digits by the weight of each byte, then digits by value, in turn.
fn dpkg(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    };
    while !(a.is_empty() && b.is_empty()) {
        let (left, right) = (run(&mut a, |byte| !byte.is_ascii_digit()), run(&mut b, |byte| !byte.is_ascii_digit()));
        for at in 0..left.len().max(right.len()) {
            let order = weight(left.get(at)).cmp(&weight(right.get(at)));
            if order.is_ne() {
                return order;
            }
        }
        let order = numbers(run(&mut a, u8::is_ascii_digit), run(&mut b, u8::is_ascii_digit));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Runs of digits and runs of letters in turn, whatever stands between them. A number is newer than letters, more is newer
/// than less; but `~` is older than an end, and `^` newer than an end and older than all else.
fn rpm(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        let is_between = |byte: &u8| !byte.is_ascii_alphanumeric() && !matches!(byte, b'~' | b'^');
        run(&mut a, is_between);
        run(&mut b, is_between);
        let rank = |byte: Option<&u8>| match byte {
            Some(b'~') => 0,
            None => 1,
            Some(b'^') => 2,
            Some(_) => 3,
        };
        let order = rank(a.first()).cmp(&rank(b.first()));
        if order.is_ne() {
            return order;
        }
        let order = match (a.first(), b.first()) {
            (Some(b'~' | b'^'), Some(_)) => {
                (a, b) = (&a[1..], &b[1..]);
                continue;
            }
            (Some(left), Some(right)) => match (left.is_ascii_digit(), right.is_ascii_digit()) {
                (true, true) => numbers(run(&mut a, u8::is_ascii_digit), run(&mut b, u8::is_ascii_digit)),
                (false, false) => run(&mut a, u8::is_ascii_alphabetic).cmp(run(&mut b, u8::is_ascii_alphabetic)),
                (left, right) => left.cmp(&right),
            },
            _ => return Ordering::Equal,
        };
        if order.is_ne() {
            return order;
        }
    }
}
