//! Who runs next: threads that take turns, so that every interleaving comes from a seed.
//!
//! Each actor is a thread with a stack of its own, because the engine's calls block; but only the one whose
//! turn it is runs. It passes the turn on wherever it touches the store or the clock. Time passes by these
//! steps, and jumps when everybody sleeps.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// xorshift64* (Vigna 2016), seeded through BLAKE3.
pub(crate) struct Random(u64);

impl Random {
    /// The same words give the same numbers.
    #[must_use]
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(purpose.as_bytes()).finalize();
        Self(u64::from_le_bytes(std::array::from_fn(|at| hash.as_bytes()[at])) | 1)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is more than 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end
    }

    /// True `per_mille` times of a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// How unkind the world is, per thousand steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hazards {
    /// An actor dies.
    pub(crate) crash: u64,
    /// An actor sleeps for up to two weeks.
    pub(crate) stall: u64,
}

enum Status {
    Ready,
    Asleep(u64),
    Done,
}

struct State {
    random: Random,
    hazards: Hazards,
    running: usize,
    actors: Vec<Status>,
    now_ms: u64,
    steps: u64,
    trace: blake3::Hasher,
}

/// The turns of all actors.
pub(crate) struct Schedule {
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

/// What an actor dies of.
pub(crate) struct Crashed;

/// An actor's place in the schedule.
pub(crate) struct Turn {
    schedule: Arc<Schedule>,
    actor: usize,
    dead: Cell<bool>,
}

/// What came of a run.
pub(crate) struct Ran {
    /// Steps that were taken.
    pub(crate) steps: u64,
    /// Says whether two runs were the same.
    pub(crate) trace: blake3::Hash,
    /// How many actors died.
    pub(crate) crashed: u64,
}

/// Runs actors to their ends, in turns.
pub(crate) fn run(seed: u64, hazards: Hazards, actors: Vec<Box<dyn FnOnce(Turn) + Send + '_>>) -> Ran {
    let count = actors.len();
    let schedule = Arc::new(Schedule {
        state: Mutex::new(State {
            random: Random::new(seed, "schedule"),
            hazards,
            running: 0,
            actors: (0..count).map(|_| Status::Ready).collect(),
            now_ms: 1_700_000_000_000,
            steps: 0,
            trace: blake3::Hasher::new(),
        }),
        turns: (0..count).map(|_| Condvar::new()).collect(),
    });
    let mut crashed = 0;
    std::thread::scope(|scope| {
        let threads: Vec<_> = actors
            .into_iter()
            .enumerate()
            .map(|(actor, body)| {
                let schedule = Arc::clone(&schedule);
                scope.spawn(move || {
                    schedule.wait(schedule.lock(), actor);
                    let turn = Turn { schedule: Arc::clone(&schedule), actor, dead: Cell::new(false) };
                    let end = catch_unwind(AssertUnwindSafe(|| body(turn)));
                    schedule.leave(actor);
                    end
                })
            })
            .collect();
        for thread in threads {
            match thread.join().and_then(|end| end) {
                Ok(()) => {}
                Err(cause) if cause.is::<Crashed>() => crashed += 1,
                Err(cause) => resume_unwind(cause),
            }
        }
    });
    let state = schedule.lock();
    Ran { steps: state.steps, trace: state.trace.finalize(), crashed }
}

impl Schedule {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, actor: usize) {
        while state.running != actor {
            state = self.turns[actor].wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Chooses who goes on; `None` if nobody is left.
    fn choose(state: &mut State) -> Option<usize> {
        loop {
            let now = state.now_ms;
            let ready = |status: &Status| match status {
                Status::Ready => true,
                Status::Asleep(until) => *until <= now,
                Status::Done => false,
            };
            let able: Vec<usize> =
                (0..state.actors.len()).filter(|actor| ready(&state.actors[*actor])).collect();
            if !able.is_empty() {
                let chosen = able[state.random.below(able.len() as u64) as usize];
                state.actors[chosen] = Status::Ready;
                return Some(chosen);
            }
            let next = state.actors.iter().filter_map(|status| match status {
                Status::Asleep(until) => Some(*until),
                _ => None,
            });
            state.now_ms = next.min()?;
        }
    }

    fn leave(&self, actor: usize) {
        let mut state = self.lock();
        state.actors[actor] = Status::Done;
        if let Some(next) = Self::choose(&mut state) {
            state.running = next;
            self.turns[next].notify_one();
        }
    }
}

impl Turn {
    /// Whether this actor died: whatever it still asks for while it unwinds comes to nothing.
    #[must_use]
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.get()
    }

    /// Lets others go first, and perhaps dies, or sleeps for long.
    pub(crate) fn pass(&self, what: &str, name: &str) {
        if self.dead.get() || std::thread::panicking() {
            return;
        }
        let mut state = self.schedule.lock();
        state.steps += 1;
        state.trace.update(&[self.actor as u8]).update(what.as_bytes()).update(name.as_bytes());
        state.now_ms += state.random.below(50);
        let Hazards { crash, stall } = state.hazards;
        if state.random.chance(crash) {
            self.dead.set(true);
            drop(state);
            resume_unwind(Box::new(Crashed));
        }
        if state.random.chance(stall) {
            let until = state.now_ms + state.random.below(14 * 24 * 3_600_000);
            state.actors[self.actor] = Status::Asleep(until);
        }
        self.hand_on(state);
    }

    /// Sleeps.
    pub(crate) fn sleep(&self, ms: u64) {
        if self.dead.get() || std::thread::panicking() {
            return;
        }
        let mut state = self.schedule.lock();
        state.actors[self.actor] = Status::Asleep(state.now_ms + ms);
        self.hand_on(state);
    }

    fn hand_on(&self, mut state: MutexGuard<'_, State>) {
        // Somebody is able to: this actor itself is not done.
        if let Some(next) = Schedule::choose(&mut state)
            && next != self.actor
        {
            state.running = next;
            self.schedule.turns[next].notify_one();
            self.schedule.wait(state, self.actor);
        }
    }

    /// The time.
    #[must_use]
    pub(crate) fn now_ms(&self) -> u64 {
        self.schedule.lock().now_ms
    }

    /// Asks the schedule's dice.
    #[must_use]
    pub(crate) fn chance(&self, per_mille: u64) -> bool {
        !self.dead.get() && self.schedule.lock().random.chance(per_mille)
    }

    /// A number below `end` from the schedule's dice.
    #[must_use]
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.schedule.lock().random.below(end)
    }
}
