//! Waiting for a state, with a ceiling. The one place of the tests where time passes by itself.

use anyhow::{Result, bail};
use std::time::Duration;
use tokio::time::Instant;

/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Returns what `look` finds, as soon as it finds something; fails once `ceiling` has passed. `what` completes the
/// sentence "waited for … in vain".
pub async fn until<T>(what: &str, ceiling: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + ceiling;
    loop {
        let last_error = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            match last_error {
                Some(error) => return Err(error.context(format!("waited {ceiling:?} for {what} in vain"))),
                None => bail!("waited {ceiling:?} for {what} in vain"),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until `look` says yes.
pub async fn until_true(what: &str, ceiling: Duration, mut look: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    until(what, ceiling, async || Ok(look().await?.then_some(()))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_state_that_comes_is_found_and_one_that_does_not_ends_the_wait() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(1), async || {
            looks += 1;
            Ok((looks == 3).then_some("here"))
        });
        assert_eq!(found.await.unwrap(), "here");
        let never = until_true("the impossible", Duration::from_secs(1), async || Ok(false)).await;
        assert_eq!(never.unwrap_err().to_string(), "waited 1s for the impossible in vain");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_told() {
        let never = until::<()>("an answer", Duration::from_secs(1), async || bail!("nobody listens")).await;
        assert!(format!("{:#}", never.unwrap_err()).contains("nobody listens"));
    }
}
