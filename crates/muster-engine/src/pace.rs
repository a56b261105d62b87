//! Pace of lines: the same news of the same source is written once, and then counted for a while.
//!
//! Stays true: what is counted is said with the next line of its kind; memory is bounded, however many sources there are.

use crate::engine::lock;
use muster_core::limits;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What was written lately, by what it was about.
#[derive(Debug)]
pub(crate) struct Pace<K> {
    every: Duration,
    written: Mutex<Written<K>>,
}

#[derive(Debug)]
struct Written<K> {
    keys: HashMap<K, Since>,
    /// Stands for all keys that find no place.
    others: Option<Since>,
}

#[derive(Debug, Clone, Copy)]
struct Since {
    at: Instant,
    more: u64,
}

impl<K: Hash + Eq> Pace<K> {
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, written: Mutex::new(Written { keys: HashMap::new(), others: None }) }
    }

    /// Says whether something is worth a line now, and how many of its kind were not since the last one.
    pub(crate) fn line(&self, key: K) -> Option<u64> {
        let now = Instant::now();
        let mut written = lock(&self.written);
        if let Some(since) = written.keys.get_mut(&key) {
            return since.again(now, self.every);
        }
        if written.keys.len() < limits::PACED_KEYS {
            written.keys.insert(key, Since { at: now, more: 0 });
            return Some(0);
        }
        match &mut written.others {
            Some(since) => since.again(now, self.every),
            none => {
                *none = Some(Since { at: now, more: 0 });
                Some(0)
            }
        }
    }

    /// Forgets what is past. Returns what was counted of it and never said, with its keys.
    pub(crate) fn forget(&self) -> Vec<(K, u64)> {
        let now = Instant::now();
        let mut written = lock(&self.written);
        let past: Vec<_> = written.keys.extract_if(|_, since| now.duration_since(since.at) >= self.every).collect();
        written.keys.shrink_to_fit();
        past.into_iter().filter(|(_, since)| since.more > 0).map(|(key, since)| (key, since.more)).collect()
    }
}

impl Since {
    fn again(&mut self, now: Instant, every: Duration) -> Option<u64> {
        if now.duration_since(self.at) < every {
            self.more += 1;
            return None;
        }
        let more = std::mem::take(&mut self.more);
        self.at = now;
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_written_and_the_rest_is_counted() {
        let pace = Pace::new(Duration::from_secs(60));
        assert_eq!([pace.line(1), pace.line(1), pace.line(2), pace.line(1)], [Some(0), None, Some(0), None]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!([pace.line(1), pace.line(1)], [Some(2), None]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(pace.forget(), [(1, 1)], "what was counted last is said, too");
        assert_eq!(pace.line(2), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_sources_takes_bounded_memory_and_few_lines() {
        let pace = Pace::new(Duration::from_secs(60));
        let lines = (0..limits::PACED_KEYS * 3).filter(|key| pace.line(*key).is_some()).count();
        assert_eq!(lines, limits::PACED_KEYS + 1);
        assert_eq!(lock(&pace.written).keys.len(), limits::PACED_KEYS);
    }
}
