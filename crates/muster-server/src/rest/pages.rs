//! Pages of lists: how many rows, and where the next page starts.
//!
//! Stays true: a cursor is opaque, and one list's cursor is refused by another. The number of rows is moved into its
//! bounds instead of being refused, as the API's description says.

use super::problem::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use muster_api::Page;
use muster_core::{Timestamp, limits};
use std::str::FromStr;

/// What a request says about the page it wants.
pub(crate) struct Paging {
    list: &'static str,
    after: Option<String>,
    limit: u32,
}

impl Paging {
    /// Reads cursor and limit of a request for `list`.
    pub(crate) fn new(list: &'static str, cursor: Option<&str>, limit: Option<u32>) -> Result<Self, Failure> {
        let limit = limit.unwrap_or(limits::PAGE_ROWS_DEFAULT).clamp(1, limits::PAGE_ROWS_MAX);
        Ok(Self { list, after: cursor.map(|cursor| decode(list, cursor)).transpose()?, limit })
    }

    /// How many rows to ask the store for: one more than are shown, to know whether there is a next page.
    pub(crate) fn rows(&self) -> u32 {
        self.limit + 1
    }

    /// The key after which the page starts.
    pub(crate) fn after<K: FromStr>(&self) -> Result<Option<K>, Failure> {
        self.after.as_deref().map(|key| key.parse().map_err(|_| foreign(self.list))).transpose()
    }

    /// The pair of a moment and a key after which the page starts.
    pub(crate) fn after_moment<K: FromStr>(&self) -> Result<Option<(Timestamp, K)>, Failure> {
        let pair = |text: &str| {
            let (moment, key) = text.split_once(' ')?;
            Some((Timestamp::from_nanos(moment.parse().ok()?), key.parse().ok()?))
        };
        self.after.as_deref().map(|text| pair(text).ok_or_else(|| foreign(self.list))).transpose()
    }

    /// Cuts the rows to the page; `key` names the row that the next page starts after.
    pub(crate) fn cut<T>(&self, rows: Vec<T>, key: impl FnOnce(&T) -> String) -> Page<T> {
        self.cut_full(rows, false, key)
    }

    /// The same where the store may have ended the page early.
    pub(crate) fn cut_full<T>(&self, mut rows: Vec<T>, is_full: bool, key: impl FnOnce(&T) -> String) -> Page<T> {
        let limit = self.limit as usize;
        let more = is_full || rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|last| encode(self.list, &key(last)));
        Page { items: rows, next }
    }

    /// Turns the rows of a page into what is shown.
    pub(crate) fn map<T, U>(page: Page<T>, show: impl FnMut(T) -> U) -> Page<U> {
        Page { items: page.items.into_iter().map(show).collect(), next: page.next }
    }
}

/// The key of a moment and an id.
pub(crate) fn moment_key(at: Timestamp, id: impl std::fmt::Display) -> String {
    format!("{} {id}", at.as_nanos())
}

fn encode(list: &str, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list} {key}"))
}

fn decode(list: &'static str, cursor: &str) -> Result<String, Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| foreign(list))?;
    let text = String::from_utf8(bytes).map_err(|_| foreign(list))?;
    let key = text.strip_prefix(list).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(|| foreign(list))?;
    if key.contains('\0') { Err(foreign(list)) } else { Ok(key.to_owned()) }
}

fn foreign(list: &str) -> Failure {
    Failure::invalid(format!("the cursor is none of the list of {list}: leave it out to start from the beginning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_the_cursor_of_the_next_and_the_last_without() {
        let paging = Paging::new("numbers", None, Some(2)).unwrap();
        let page = paging.cut(vec![1, 2, 3], ToString::to_string);
        assert_eq!(page.items, [1, 2]);
        let next = Paging::new("numbers", page.next.as_deref(), Some(2)).unwrap();
        assert_eq!(next.after::<i64>().unwrap(), Some(2));
        assert_eq!(next.cut(vec![3, 4], ToString::to_string).next, None);
        let full = paging.cut_full(vec![1], true, ToString::to_string);
        assert_eq!((full.items, full.next), (vec![1], Some(encode("numbers", "1"))));
    }

    #[test]
    fn a_foreign_or_broken_cursor_is_refused() {
        let cursor = encode("agents", "x");
        for cursor in [cursor.as_str(), "", "%%%", "AA", &encode("numbers", "a\0b")] {
            assert_eq!(Paging::new("numbers", Some(cursor), None).err().unwrap().kind, "invalid_request", "{cursor}");
        }
        let wrong_key = encode("numbers", "word");
        assert!(Paging::new("numbers", Some(&wrong_key), None).unwrap().after::<i64>().is_err());
    }

    #[test]
    fn the_number_of_rows_is_moved_into_its_bounds() {
        let rows = |limit| Paging::new("numbers", None, limit).unwrap().rows();
        assert_eq!([rows(None), rows(Some(0)), rows(Some(u32::MAX))], [101, 2, 1001]);
    }

    #[test]
    fn a_moment_and_a_key_come_back() {
        let cursor = encode("messages", &moment_key(Timestamp::from_nanos(-5), "k"));
        let paging = Paging::new("messages", Some(&cursor), None).unwrap();
        assert_eq!(paging.after_moment::<String>().unwrap(), Some((Timestamp::from_nanos(-5), "k".to_owned())));
    }
}
