//! The open charges of a process: their places, which are bounded in total and for each account, and
//! their end at shutdown.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::metrics::{Counted, Gauge};
use crate::model::{AccountId, Refusal};

/// How many charges may be open at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenChargeLimits {
    /// The places of all accounts together.
    pub(crate) total: usize,
    /// The places of one account; `None` for a quarter of the total.
    pub(crate) per_account: Option<usize>,
}

impl OpenChargeLimits {
    fn per_account(self) -> usize {
        self.per_account.unwrap_or(self.total.div_ceil(4))
    }
}

impl Default for OpenChargeLimits {
    fn default() -> Self {
        Self { total: 65_536, per_account: None }
    }
}

/// A charge that shutdown may end before its work has ended.
pub(crate) trait CutOff: Send + Sync + 'static {
    /// Settles what was added so far, and ends the response.
    fn cut_off(self: Arc<Self>);
}

/// The open charges.
pub(crate) struct OpenCharges {
    limits: OpenChargeLimits,
    max_age: Duration,
    register: Mutex<Register>,
    gauge: Gauge,
    /// Notified when the last charge is closed, once new ones are refused.
    none_left: Notify,
}

#[derive(Default)]
struct Register {
    /// Whether new charges are refused.
    is_closed: bool,
    last: u64,
    /// By number, and so in the order in which they were opened.
    charges: BTreeMap<u64, OpenCharge>,
    /// The charges up to this number have given their places back.
    without_place: u64,
    places: usize,
    places_of: HashMap<AccountId, usize>,
}

struct OpenCharge {
    account: AccountId,
    since: Instant,
    charge: Weak<dyn CutOff>,
}

/// The permit to have a charge open. The charge is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct ChargePermit {
    charges: Arc<OpenCharges>,
    number: u64,
    _counted: Counted,
}

impl OpenCharges {
    /// Returns the register of no open charges. A charge of the maximum age gives its place back.
    pub(crate) fn new(limits: OpenChargeLimits, max_age: Duration, gauge: Gauge) -> Self {
        Self { limits, max_age, register: Mutex::default(), gauge, none_left: Notify::new() }
    }

    /// Opens a charge, if the account has a place left.
    pub(crate) fn open(
        self: &Arc<Self>,
        account: &AccountId,
        charge: Weak<dyn CutOff>,
    ) -> Result<ChargePermit, Refusal> {
        let since = Instant::now();
        let mut register = self.register();
        if register.is_closed {
            return Err(Refusal::UNAVAILABLE);
        }
        if !register.has_place(account, self.limits) {
            // Charges are looked at for their age when a place is needed, and not by a timer.
            register.free_places(|charge| since.duration_since(charge.since) >= self.max_age);
        }
        if !register.has_place(account, self.limits) {
            let (all, of_account) = (register.places, register.places_of(account));
            drop(register);
            tracing::debug!(%account, of_account, all, "agentkey refused a charge, because too many are open");
            return Err(Refusal::UNAVAILABLE);
        }
        let number = register.open(OpenCharge { account: account.clone(), since, charge });
        Ok(ChargePermit { charges: self.clone(), number, _counted: self.gauge.enter() })
    }

    /// Returns how many charges have a place, of how many places, and whether new charges are
    /// refused.
    pub(crate) fn places(&self) -> (usize, usize, bool) {
        let now = Instant::now();
        let mut register = self.register();
        register.free_places(|charge| now.duration_since(charge.since) >= self.max_age);
        (register.places, self.limits.total, register.is_closed)
    }

    /// Refuses new charges, and waits until none is open.
    pub(crate) async fn close(&self) {
        let mut none_left = std::pin::pin!(self.none_left.notified());
        // Enabled before the look at the register, so that no notification is missed.
        none_left.as_mut().enable();
        if self.refuse_new() {
            none_left.await;
        }
    }

    /// Refuses new charges, and returns whether one is open.
    fn refuse_new(&self) -> bool {
        let mut register = self.register();
        register.is_closed = true;
        !register.charges.is_empty()
    }

    /// Cuts off every open charge. New ones are refused already.
    pub(crate) fn cut_off(&self) {
        // A charge locks the register when it ends, so none is called or dropped under the lock.
        let open: Vec<_> =
            self.register().charges.values().map(|open| open.charge.clone()).collect();
        open.iter().filter_map(Weak::upgrade).for_each(CutOff::cut_off);
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OpenCharges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCharges")
            .field("open", &self.register().charges.len())
            .finish_non_exhaustive()
    }
}

impl Register {
    fn has_place(&self, account: &AccountId, limits: OpenChargeLimits) -> bool {
        self.places < limits.total && self.places_of(account) < limits.per_account()
    }

    fn places_of(&self, account: &AccountId) -> usize {
        self.places_of.get(account).copied().unwrap_or_default()
    }

    fn open(&mut self, charge: OpenCharge) -> u64 {
        self.places += 1;
        *self.places_of.entry(charge.account.clone()).or_default() += 1;
        self.last += 1;
        self.charges.insert(self.last, charge);
        self.last
    }

    fn close(&mut self, number: u64) {
        if let Some(charge) = self.charges.remove(&number)
            && number > self.without_place
        {
            self.free_place(&charge.account);
        }
    }

    /// Frees the places of the oldest charges, as long as they are old enough.
    fn free_places(&mut self, is_old: impl Fn(&OpenCharge) -> bool) {
        loop {
            let oldest = self.charges.range(self.without_place.saturating_add(1)..).next();
            let Some((number, charge)) = oldest.filter(|(_, charge)| is_old(charge)) else {
                return;
            };
            let (number, account) = (*number, charge.account.clone());
            self.without_place = number;
            self.free_place(&account);
        }
    }

    fn free_place(&mut self, account: &AccountId) {
        self.places -= 1;
        if let Some(places) = self.places_of.get_mut(account) {
            *places -= 1;
            if *places == 0 {
                self.places_of.remove(account);
            }
        }
    }
}

impl Drop for ChargePermit {
    fn drop(&mut self) {
        let mut register = self.charges.register();
        register.close(self.number);
        let was_last = register.is_closed && register.charges.is_empty();
        drop(register);
        if was_last {
            self.charges.none_left.notify_waiters();
        }
    }
}
