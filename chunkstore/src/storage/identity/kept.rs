//! What proves who we are, for as long as it is good.

use super::NoIdentity;
use crate::pool::locked;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex};

/// The longest time before its end in which a proof is renewed: EC2 gives new ones five minutes before the old ones end
/// ("Retrieve security credentials from instance metadata", Amazon EC2 user guide). Of a shorter one, half its time.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// How long nobody is asked again after an attempt that failed: each request of a store, and each tier, would ask.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// How long a proof is used whose end has passed already when it comes: one of the two clocks may be wrong, and the store
/// is what decides.
const LATE: SignedDuration = SignedDuration::from_secs(60);

/// A proof, and its times.
struct Good<T> {
    value: Arc<T>,
    renewed_from: Timestamp,
    until: Timestamp,
}

/// The proof that there is, and the one attempt at a new one.
pub(super) struct Kept<T> {
    good: Mutex<Option<Good<T>>>,
    /// Held by whoever asks; in it, why the last attempt failed, and when.
    asking: tokio::sync::Mutex<Option<(NoIdentity, Timestamp)>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { good: Mutex::new(None), asking: tokio::sync::Mutex::new(None) }
    }
}

impl<T: Send + Sync> Kept<T> {
    /// The proof that is good now, by `ask` if there is none or if its end is near. One that is still good is used
    /// while a new one cannot be had. `ask` gives a proof and its end.
    pub(super) async fn get<F>(&self, ask: impl FnOnce() -> F) -> Result<Arc<T>, NoIdentity>
    where
        F: Future<Output = Result<(T, Timestamp), NoIdentity>>,
    {
        if let (Some(value), false) = self.known() {
            return Ok(value);
        }
        let mut last = match self.asking.try_lock() {
            Ok(last) => last,
            // Somebody is at it.
            Err(_) => match self.known() {
                (Some(value), _) => return Ok(value),
                (None, _) => self.asking.lock().await,
            },
        };
        let usable = match self.known() {
            (Some(value), false) => return Ok(value),
            (usable, _) => usable,
        };
        let now = Timestamp::now();
        if let Some((why, at)) = last.as_ref()
            && now.duration_since(*at).abs() < AGAIN
        {
            return usable.ok_or_else(|| why.clone());
        }
        match ask().await {
            Ok((value, until)) => {
                *last = None;
                let value = Arc::new(value);
                let (renewed_from, until) = times(Timestamp::now(), until);
                *locked(&self.good) = Some(Good { value: Arc::clone(&value), renewed_from, until });
                Ok(value)
            }
            Err(why) => {
                *last = Some((why.clone(), Timestamp::now()));
                let used = usable.is_some();
                tracing::debug!(target: "credentials", %why, used, "no new credentials");
                usable.ok_or(why)
            }
        }
    }

    /// What is good now, and whether it is to be renewed.
    fn known(&self) -> (Option<Arc<T>>, bool) {
        let good = locked(&self.good);
        let now = Timestamp::now();
        match good.as_ref() {
            Some(good) if now < good.until => (Some(Arc::clone(&good.value)), now >= good.renewed_from),
            _ => (None, true),
        }
    }
}

/// From when a proof is renewed, and until when it is used.
fn times(now: Timestamp, until: Timestamp) -> (Timestamp, Timestamp) {
    let left = until.duration_since(now);
    if left <= SignedDuration::ZERO {
        let until = now.saturating_add(LATE).unwrap_or(Timestamp::MAX);
        return (until, until);
    }
    let from = until.saturating_sub(AHEAD.min(left / 2)).unwrap_or(now);
    (from, until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn wait<T>(coming: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(coming)
    }

    #[test]
    fn a_proof_is_renewed_before_it_ends() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let after = |seconds: i64| now + SignedDuration::from_secs(seconds);
        assert_eq!(times(now, after(3600)), (after(3300), after(3600)));
        assert_eq!(times(now, after(10)), (after(5), after(10)));
        // The store decides, and nobody is asked for each request.
        for past in [0, -1, -86_400] {
            assert_eq!(times(now, after(past)), (after(60), after(60)));
        }
    }

    #[test]
    fn one_asks_and_the_others_use_what_is_still_good() {
        let (kept, asked) = (Kept::default(), AtomicU32::new(0));
        let give = |seconds: f64| {
            let until = Timestamp::now() + SignedDuration::from_secs_f64(seconds);
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move { Ok((number, until)) }
        };
        wait(async {
            assert_eq!(*kept.get(|| give(0.4)).await.unwrap(), 0);
            assert_eq!(*kept.get(|| give(0.4)).await.unwrap(), 0);
            tokio::time::sleep(Duration::from_millis(250)).await;
            // In its second half: one renews it slowly, and another one uses it meanwhile.
            let slow = kept.get(|| async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                give(3600.0).await
            });
            let quick = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                kept.get(|| give(1.0)).await
            };
            let (slow, quick) = futures_util::future::join(slow, quick).await;
            assert_eq!((*slow.unwrap(), *quick.unwrap()), (1, 0));
            assert_eq!(*kept.get(|| give(1.0)).await.unwrap(), 1);
        });
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_failure_is_told_to_all_and_hurts_nobody_who_has_a_good_proof() {
        let refuse = || async { Err(NoIdentity::away("it is down")) };
        wait(async {
            let kept = Kept::<u32>::default();
            assert_eq!(kept.get(refuse).await.unwrap_err().why, "it is down");
            let again = kept.get(|| async { panic!("asked again at once") }).await;
            assert!(again.unwrap_err().is_away);
            let kept = Kept::default();
            let until = Timestamp::now() + SignedDuration::from_millis(200);
            assert_eq!(*kept.get(|| async { Ok((7, until)) }).await.unwrap(), 7);
            tokio::time::sleep(Duration::from_millis(120)).await;
            assert_eq!(*kept.get(refuse).await.unwrap(), 7);
            tokio::time::sleep(Duration::from_millis(120)).await;
            assert!(kept.get(refuse).await.is_err());
        });
    }
}
