//! Numbers as Go prints doubles in JSON.

use std::fmt::Write;

/// Writes a finite double: shortest digits that read back, plain from 1e-6 up to 1e21, otherwise with an exponent.
pub(super) fn write(out: &mut String, number: f64) {
    let size = number.abs();
    let plain = size == 0.0 || (1e-6..1e21).contains(&size);
    let written = if plain {
        write!(out, "{number}")
    } else {
        // Both languages write small exponents with a sign; for large ones Go writes a plus.
        let text = format!("{number:e}");
        let text = if size >= 1.0 { text.replace('e', "e+") } else { text };
        out.write_str(&text)
    };
    written.expect("writing into a string cannot fail");
}
