//! What threads share: a mutex whatever became of the thread that held it, and values that wait to be used again.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also one whose holder panicked: whoever joins that thread reports the panic, and every other thread can
/// still end.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values that are expensive to make and wait to be used again.
#[derive(Debug)]
pub struct Pool<T>(Mutex<Vec<T>>);

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Pool<T> {
    /// The one that was used last, if one waits.
    #[must_use]
    pub fn take(&self) -> Option<T> {
        locked(&self.0).pop()
    }

    /// One of which `fits` is true, if one waits.
    #[must_use]
    pub fn take_fitting(&self, fits: impl FnMut(&T) -> bool) -> Option<T> {
        let mut all = locked(&self.0);
        all.iter().position(fits).map(|place| all.swap_remove(place))
    }

    /// Takes one that is no longer used.
    pub fn put(&self, value: T) {
        locked(&self.0).push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_with_the_lock_leaves_what_is_there() {
        let pool = Pool::default();
        pool.put(1);
        let panics = || {
            let _held = locked(&pool.0);
            panic!("on purpose");
        };
        assert!(std::thread::scope(|scope| scope.spawn(panics).join()).is_err());
        assert_eq!((pool.take(), pool.take()), (Some(1), None));
    }
}
