//! The transactions of the ledger: by what is known where that is enough, else behind the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use jiff::Timestamp;
use uuid::Uuid;

use super::connection::Statements;
use super::decode::{AccountRow, Cells};
use super::error::{Anew, corrupt, is_accounts_missing, is_contention, is_locked, is_lost, is_moved, is_of_rows};
use super::known::Basis;
use super::layout::{Layout, Sql};
use super::read::lineages;
use super::types::Instant;
use super::write::{Owners, Write, step, stood};
use super::{Inner, read};
use crate::lanes::UNAVAILABLE;
use crate::ledger::{Book, Changes, Needs, Posted, Posting};
use crate::store::plain::is_plain;
use crate::store::stored_key::KeyRow;
use crate::{AccountId, EntryId, KeyId, Refusal};

type Answer = Result<Posted, Refusal>;

/// The texts of what is read behind the lock.
pub(super) struct Loads {
    lock: Sql,
    make_accounts: Sql,
    unmade_accounts: Sql,
    overdue: Sql,
    next_expiry: Sql,
    put_next_expiry: Sql,
    put_strays: Sql,
    holds: Sql,
    claims: Sql,
    entries: Sql,
}

impl Loads {
    pub(super) fn new(layout: &Layout) -> Self {
        Self {
            lock: layout.sql(
                "SELECT {of_account} FROM (SELECT w.id FROM unnest($1::text[]) w (id) ORDER BY w.id COLLATE \"C\") w \
                 CROSS JOIN LATERAL (SELECT * FROM {accounts} a WHERE a.id = w.id FOR NO KEY UPDATE) a",
            ),
            // Of keys that the host's own SQL made.
            make_accounts: layout.sql(
                "INSERT INTO {accounts} (id, version, changed_at, period, created_at, spent, held, since, next_expiry, \
                 last_entry) \
                 SELECT DISTINCT k.{k.account}::text COLLATE \"C\", $4::int8, $3::timestamptz, 'lifetime', $3, 0, 0, \
                 '-infinity'::timestamptz, (SELECT min(h.expires_at) FROM {holds} h \
                 WHERE h.account_id = k.{k.account}::text COLLATE \"C\" AND h.state = 'live'), \
                 (SELECT coalesce(max(e.seq), -9223372036854775808) FROM {entries} e \
                 WHERE e.account_id = k.{k.account}::text COLLATE \"C\") FROM {keys} k WHERE k.{k.id} = ANY($2::int8[]) \
                 AND k.{k.account}::text = ANY($1::text[]) ORDER BY 1 ON CONFLICT (id) DO NOTHING",
            ),
            unmade_accounts: layout.sql(
                "SELECT 1 FROM {keys} k WHERE k.{k.id} = ANY($2::int8[]) AND k.{k.account}::text = ANY($1::text[]) \
                 AND NOT EXISTS (SELECT 1 FROM {accounts} a WHERE a.id = k.{k.account}::text COLLATE \"C\") LIMIT 1",
            ),
            overdue: layout.sql(
                "SELECT {of_hold} FROM unnest($1::text[], $2::timestamptz[]) w (id, now) CROSS JOIN LATERAL \
                 (SELECT * FROM {holds} h WHERE h.account_id = w.id AND h.state = 'live' AND h.expires_at <= w.now \
                 OFFSET 0) h",
            ),
            next_expiry: layout.sql(
                "SELECT w.id, (SELECT min(h.expires_at) FROM {holds} h WHERE h.account_id = w.id \
                 AND h.state = 'live' AND h.expires_at > w.now) FROM unnest($1::text[], $2::timestamptz[]) w (id, now)",
            ),
            put_next_expiry: layout.sql(
                "UPDATE {accounts} a SET next_expiry = w.next_expiry \
                 FROM unnest($1::text[], $2::timestamptz[]) w (id, next_expiry) WHERE a.id = w.id",
            ),
            // Whoever finds the key in the account again finds a balance that counts no period.
            put_strays: layout.sql(
                "INSERT INTO {balances} (key_id, account_id, period, spent, held, since) \
                 SELECT w.key_id, w.account_id, '', 0, 0, '-infinity'::timestamptz \
                 FROM unnest($1::int8[], $2::text[]) w (key_id, account_id) \
                 ON CONFLICT (key_id, account_id) DO UPDATE SET period = ''",
            ),
            holds: layout.sql(
                "SELECT {of_hold} FROM unnest($1::uuid[]) w (id) CROSS JOIN LATERAL \
                 (SELECT * FROM {holds} h WHERE h.id = w.id OFFSET 0) h",
            ),
            claims: layout.sql(
                "SELECT c.key_id, c.idempotency_key, c.fingerprint, c.owner, c.in_flight_until, c.entry \
                 FROM unnest($1::int8[], $2::text[]) w (key_id, idempotency_key) CROSS JOIN LATERAL \
                 (SELECT * FROM {claims} c WHERE c.key_id = w.key_id AND c.idempotency_key = w.idempotency_key \
                 OFFSET 0) c",
            ),
            entries: layout.sql(
                "SELECT {of_entry}, coalesce((SELECT -sum(r.amount) FROM {entries} r WHERE r.refunds = e.id), 0)::int8 \
                 FROM unnest($1::uuid[]) w (id) CROSS JOIN LATERAL \
                 (SELECT * FROM {entries} e WHERE e.id = w.id OFFSET 0) e",
            ),
        }
    }
}

/// So many accounts are remembered to have failed.
const MOST_ASIDE: usize = 1_000;

/// How often a transaction is begun anew because others were in the way.
pub(super) const ATTEMPTS: usize = 4;

impl Inner {
    pub(super) async fn posted(&self, postings: &[Posting]) -> sqlx::Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = Vec::new();
        answers.resize_with(postings.len(), || None);
        let mut ended = self.by_what_is_known(postings, &(0..postings.len()).collect::<Vec<_>>(), &mut answers).await;
        if let Ok(lost) = &ended
            && !lost.is_empty()
        {
            // Somebody else wrote there before: that is read, and decided by, once.
            ended = self.by_what_is_known(postings, &lost.clone(), &mut answers).await;
        }
        let left: Vec<Posting> = unanswered(postings, &answers).cloned().collect();
        if !left.is_empty() {
            let late = match ended {
                Ok(_) => self.behind_the_lock(&left).await,
                Err(error) => Err(error),
            };
            let late = match late {
                Ok(late) => late,
                Err(error) if left.len() == postings.len() => return Err(error),
                // The others have been committed, and are to be told so.
                Err(error) => {
                    tracing::warn!(%error, postings = left.len(), "agentkey could not post");
                    left.iter().map(|_| Err(UNAVAILABLE)).collect()
                }
            };
            let mut late = late.into_iter();
            answers.iter_mut().filter(|answer| answer.is_none()).for_each(|answer| *answer = late.next());
        }
        answers.into_iter().map(|answer| answer.ok_or_else(|| corrupt("a posting was not answered"))).collect()
    }

    /// Decides those at `places` by what is known, and writes if that still stands: one round trip, or two where a lineage
    /// must be looked at first. What it leaves unanswered took more than that; it tells where what was known was out of
    /// date.
    async fn by_what_is_known(
        &self,
        postings: &[Posting],
        places: &[usize],
        answers: &mut [Option<Answer>],
    ) -> sqlx::Result<Vec<usize>> {
        // One posting that is not plain keeps all of its account from being decided ahead of it.
        let asked = || places.iter().filter_map(|place| Some((*place, postings.get(*place)?)));
        let others: HashSet<_> =
            asked().filter(|(_, posting)| !is_plain(posting)).map(|(_, posting)| &posting.account).collect();
        let mut accounts: HashMap<&AccountId, Vec<usize>> = HashMap::new();
        for (place, posting) in asked().filter(|(_, posting)| !others.contains(&posting.account)) {
            accounts.entry(&posting.account).or_default().push(place);
        }
        accounts.retain(|account, _| self.known.is_worth_a_try(account));
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let plain: Vec<_> = accounts.values().flatten().filter_map(|place| postings.get(*place)).collect();
        let unknown = self.known.unknown_keys(&plain);
        let mut held = self.connections.posting().await?;
        if !unknown.is_empty() {
            match held.fetch(self.reads.lineages(&unknown)).await {
                Ok(rows) => self.learn(&read::members(&rows, &self.layout.columns)?),
                Err(error) => return held.after(Err(error)),
            }
        }
        let mut decided = Vec::new();
        for (account, places) in accounts {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).collect();
            let Some((mut book, basis)) = self.known.book(account, &own, self.clock.now()) else { continue };
            let posted: Vec<_> = own.iter().map(|posting| book.post(posting)).collect();
            // A refusal may be that of a posting that was accepted before: that is for the lock to find out.
            if posted.iter().any(Result::is_err) {
                continue;
            }
            let changes = book.take_changes();
            decided.push((basis, places, posted, changes));
        }
        if decided.is_empty() {
            return held.after(Ok(Vec::new()));
        }
        let bases: Vec<_> = decided.iter().map(|(basis, ..)| basis.clone()).collect();
        let changes: Vec<_> = decided.iter().map(|(.., changes)| changes).collect();
        let step = step();
        let write = Write { bases: &bases, changes: &changes, owners: None, step };
        let query = match self.writes.query(&self.layout, &write) {
            Ok(query) => query,
            Err(error) => return held.after(Err(error)),
        };
        for (basis, _, _, changes) in decided.iter().filter(|(.., changes)| !changes.is_empty()) {
            self.known.sending(basis, basis.version + step, changes);
        }
        let rows = match held.fetch(query).await {
            Ok(rows) => rows,
            Err(error) => {
                if is_lost(&error) {
                    self.known.forget_all();
                }
                self.known.forget(bases.iter().map(|basis| &basis.account));
                let later = is_contention(&error) || is_of_rows(&error);
                let ended = held.after(Err(error));
                return if later { Ok(Vec::new()) } else { ended };
            }
        };
        held.after(Ok(()))?;
        let stood = stood(&rows, &bases)?;
        let mut again = Vec::new();
        for ((basis, places, posted, changes), stood) in decided.into_iter().zip(stood) {
            if !stood {
                self.known.lost(&basis.account);
                again.extend(places);
                continue;
            }
            if !changes.is_empty() {
                self.known.wrote(&basis.account, basis.version + step);
            }
            for (place, answer) in places.into_iter().zip(posted) {
                if let Some(slot) = answers.get_mut(place) {
                    *slot = Some(answer);
                }
            }
        }
        Ok(again)
    }

    /// Decides under the lock of the accounts. What somebody else keeps locked, or what cannot be decided, keeps nothing
    /// else from being posted: an account that failed is tried apart from the others until it goes well.
    async fn behind_the_lock(&self, postings: &[Posting]) -> sqlx::Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = postings.iter().map(|_| Err(UNAVAILABLE)).collect();
        let (apart, together): (Vec<_>, Vec<_>) = {
            let aside = self.aside();
            (0..postings.len()).partition(|place| postings.get(*place).is_some_and(|it| aside.contains(&it.account)))
        };
        let mut groups = by_account(&apart, postings);
        groups.extend((!together.is_empty()).then_some(together));
        while let Some(places) = groups.pop() {
            let own: Vec<_> = places.iter().filter_map(|place| postings.get(*place)).cloned().collect();
            match self.in_one_transaction(&own).await {
                Ok(posted) => {
                    self.aside().retain(|account| own.iter().all(|posting| posting.account != *account));
                    put(&mut answers, places.into_iter().zip(posted));
                }
                Err(error) if is_of_rows(&error) && (postings.len() > 1 || is_locked(&error)) => {
                    let accounts = by_account(&places, postings);
                    if accounts.len() > 1 {
                        groups.extend(accounts);
                        continue;
                    }
                    self.put_aside(own.first());
                    if !is_locked(&error) && !is_moved(&error) {
                        tracing::warn!(%error, postings = own.len(), "agentkey could not post");
                        self.one_by_one(&places, &own, &mut answers).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Postings of one account, of which one cannot be decided. None overtakes one that only has to wait.
    async fn one_by_one(&self, places: &[usize], own: &[Posting], answers: &mut [Answer]) -> sqlx::Result<()> {
        if own.len() < 2 {
            return Ok(());
        }
        for (place, posting) in places.iter().zip(own) {
            match self.in_one_transaction(std::slice::from_ref(posting)).await {
                Ok(posted) => put(answers, std::iter::once(*place).zip(posted)),
                Err(error) if is_locked(&error) || is_moved(&error) => break,
                Err(error) if is_of_rows(&error) => {
                    tracing::warn!(%error, posting = %posting.id, "agentkey could not post");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn put_aside(&self, posting: Option<&Posting>) {
        let mut aside = self.aside();
        if aside.len() >= MOST_ASIDE {
            aside.clear();
        }
        aside.extend(posting.map(|posting| posting.account.clone()));
    }

    fn aside(&self) -> MutexGuard<'_, HashSet<AccountId>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn in_one_transaction(&self, postings: &[Posting]) -> sqlx::Result<Vec<Answer>> {
        let needs = Needs::of(postings);
        for _ in 0..ATTEMPTS {
            let mut held = self.connections.posting().await?;
            let posted = async {
                let mut work = held.begin().await?;
                let posted = self.post_in(&mut work.statements(), postings, &needs).await?;
                work.commit().await?;
                Ok(posted)
            };
            let posted = posted.await;
            match held.after(posted) {
                Err(error) if is_accounts_missing(&error) => self.make_accounts(&needs).await?,
                Err(error) if is_contention(&error) => {}
                posted => return posted,
            }
        }
        Err(Anew::Moved.into())
    }

    /// Makes the rows of accounts that have keys of the host's own making. By itself: whoever has locked rows of others
    /// must not wait for this.
    pub(super) async fn make_accounts(&self, needs: &Needs) -> sqlx::Result<()> {
        let mut held = self.connections.posting().await?;
        let made = async {
            let mut work = held.begin().await?;
            self.make_accounts_in(&mut work.statements(), needs).await?;
            work.commit().await
        };
        let made = made.await;
        held.after(made)
    }

    async fn make_accounts_in(&self, statements: &mut Statements<'_>, needs: &Needs) -> sqlx::Result<()> {
        for account in &needs.accounts {
            statements.run(self.make_lock(account)).await?;
        }
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let make = self.loads.make_accounts.query().bind(ids).bind(keys).bind(Instant(self.clock.now()));
        statements.run(make.bind(step())).await
    }

    /// Locks, loads, posts and writes, in a transaction that has begun.
    pub(super) async fn post_in(
        &self,
        statements: &mut Statements<'_>,
        postings: &[Posting],
        needs: &Needs,
    ) -> sqlx::Result<Vec<Answer>> {
        let mut loaded = self.load(statements, needs).await?;
        let posted = postings.iter().map(|posting| loaded.book.post(posting)).collect();
        let owners = postings.iter().map(|posting| (posting.key, posting.account.clone()));
        self.write(statements, &mut loaded, owners).await?;
        Ok(posted)
    }

    /// Fills a book under the lock, and ends the holds of its accounts that have run out.
    pub(super) async fn load(&self, statements: &mut Statements<'_>, needs: &Needs) -> sqlx::Result<Loaded> {
        let accounts = self.lock(statements, needs).await?;
        let now = self.clock.now();
        let mut loaded = Loaded { book: Book::new(), bases: Vec::with_capacity(accounts.len()), due: HashSet::new() };
        let due: Vec<_> =
            accounts.iter().filter(|row| row.is_overdue(now)).map(|row| (row, now.max(row.changed_at))).collect();
        let expiries = match due.is_empty() {
            true => HashMap::new(),
            false => self.load_overdue(statements, &due, &mut loaded.book).await?,
        };
        for AccountRow { account, version, changed_at, next_expiry, last_entry } in accounts {
            if expiries.contains_key(&account.id) {
                loaded.due.insert(account.id.clone());
            }
            let next_expiry = expiries.get(&account.id).copied().unwrap_or(next_expiry);
            let id = account.id.clone();
            loaded.bases.push(Basis { account: id, version, next_expiry, last_entry, keys: Vec::new() });
            loaded.book.open(account, changed_at, now);
        }
        self.load_rows(statements, needs, &mut loaded.book).await?;
        let keys: BTreeSet<_> = needs.keys.iter().copied().chain(loaded.book.row_keys()).collect();
        self.load_lineages(statements, keys.into_iter().collect(), &mut loaded).await?;
        for account in &needs.accounts {
            loaded.book.expire(account);
        }
        Ok(loaded)
    }

    async fn lock(&self, statements: &mut Statements<'_>, needs: &Needs) -> sqlx::Result<Vec<AccountRow>> {
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let mut rows = statements.fetch(self.loads.lock.query().bind(ids.clone())).await?;
        if rows.len() < ids.len() && self.has_unmade_accounts(statements, needs).await? {
            if statements.may_begin_anew {
                return Err(Anew::AccountsMissing.into());
            }
            self.make_accounts_in(statements, needs).await?;
            rows = statements.fetch(self.loads.lock.query().bind(ids)).await?;
        }
        rows.iter().filter_map(|row| Cells::of(row).maybe_account().transpose()).collect()
    }

    /// Whether accounts that have no row have keys.
    async fn has_unmade_accounts(&self, statements: &mut Statements<'_>, needs: &Needs) -> sqlx::Result<bool> {
        if needs.keys.is_empty() {
            return Ok(false);
        }
        let ids: Vec<_> = needs.accounts.iter().map(|account| account.as_str().to_owned()).collect();
        let keys: Vec<_> = needs.keys.iter().map(|key| key.get()).collect();
        let rows = statements.fetch(self.loads.unmade_accounts.query().bind(ids).bind(keys)).await?;
        Ok(!rows.is_empty())
    }

    /// Adds the live holds that have run out; answers when the next one does, and takes note of that.
    async fn load_overdue(
        &self,
        statements: &mut Statements<'_>,
        due: &[(&AccountRow, Timestamp)],
        book: &mut Book,
    ) -> sqlx::Result<HashMap<AccountId, Option<Timestamp>>> {
        let ids: Vec<_> = due.iter().map(|(row, _)| row.account.id.as_str().to_owned()).collect();
        let at: Vec<_> = due.iter().map(|(_, now)| Instant(*now)).collect();
        let overdue = self.loads.overdue.query().bind(ids.clone()).bind(at.clone());
        for row in &statements.fetch(overdue).await? {
            book.add_hold(Cells::of(row).hold()?);
        }
        let rows = statements.fetch(self.loads.next_expiry.query().bind(ids).bind(at)).await?;
        let mut expiries = HashMap::with_capacity(rows.len());
        for row in &rows {
            let mut cells = Cells::of(row);
            expiries.insert(cells.account_id()?, cells.maybe_instant()?);
        }
        Ok(expiries)
    }

    /// Adds the holds, claims and entries that are named, and the entries that those claims name.
    async fn load_rows(&self, statements: &mut Statements<'_>, needs: &Needs, book: &mut Book) -> sqlx::Result<()> {
        if !needs.holds.is_empty() {
            let ids: Vec<_> = needs.holds.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.loads.holds.query().bind(ids)).await? {
                book.add_hold(Cells::of(row).hold()?);
            }
        }
        if !needs.claims.is_empty() {
            let keys: Vec<_> = needs.claims.iter().map(|(key, _)| key.get()).collect();
            let claims: Vec<_> = needs.claims.iter().map(|(_, claim)| claim.to_string()).collect();
            for row in &statements.fetch(self.loads.claims.query().bind(keys).bind(claims)).await? {
                book.add_claim(Cells::of(row).claim()?);
            }
        }
        let entries: HashSet<EntryId> = needs.entries.iter().copied().chain(book.claimed_entries()).collect();
        if !entries.is_empty() {
            let ids: Vec<_> = entries.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect();
            for row in &statements.fetch(self.loads.entries.query().bind(ids)).await? {
                book.add_entry(Cells::of(row).entry_row()?);
            }
        }
        Ok(())
    }

    /// Adds keys and all their ancestors.
    async fn load_lineages(
        &self,
        statements: &mut Statements<'_>,
        keys: Vec<KeyId>,
        loaded: &mut Loaded,
    ) -> sqlx::Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        for row in &statements.fetch(self.reads.lineages(&keys)).await? {
            let (stored, stamp) = Cells::member(row).key(&self.layout.columns)?;
            if loaded.book.key(stored.id).is_some() {
                continue;
            }
            let Some(KeyRow { mut key, is_behind }) = stored.or_stand_in() else { continue };
            if let Some(basis) = loaded.bases.iter_mut().find(|basis| basis.account == key.account) {
                basis.keys.push((key.id, stamp));
            }
            match loaded.book.now(&key.account).filter(|_| is_behind) {
                Some(now) => {
                    key.balance.since = key.budget.period.window(key.anchor, now).start;
                    key.balance.spent = self.sums.spent_by_key(statements, &key, key.balance.since).await?;
                    key.balance.held = self.sums.held_by_key(statements, &key).await?;
                    loaded.book.add_recounted(key);
                }
                None => loaded.book.add_key(key),
            }
        }
        Ok(())
    }

    /// Writes what the book changed.
    pub(super) async fn write(
        &self,
        statements: &mut Statements<'_>,
        Loaded { book, bases, due }: &mut Loaded,
        owners: impl Iterator<Item = (KeyId, AccountId)>,
    ) -> sqlx::Result<Changes> {
        let of_keys: HashMap<_, _> = book.keys().map(|key| (key.id, key.account.clone())).collect();
        let mut owners = Owners { balances: owners.collect(), claims: of_keys.clone() };
        // A claim goes with the posting that made it, the money of a key with the account that it is of now.
        owners.claims.extend(owners.balances.clone());
        owners.balances.extend(of_keys);
        let changes = book.take_changes();
        // What is written takes `next_expiry` with it; where nothing is, it is all that changes.
        let changed: HashSet<_> = changes.accounts.iter().map(|(account, _)| &account.id).collect();
        let only = bases.iter().filter(|basis| due.contains(&basis.account) && !changed.contains(&basis.account));
        let (ids, next): (Vec<_>, Vec<_>) =
            only.map(|basis| (basis.account.as_str().to_owned(), basis.next_expiry.map(Instant))).unzip();
        if !ids.is_empty() {
            statements.run(self.loads.put_next_expiry.query().bind(ids).bind(next)).await?;
        }
        if changes.is_empty() {
            return Ok(changes);
        }
        self.known.forget(bases.iter().map(|basis| &basis.account));
        let write = Write { bases, changes: &[&changes], owners: Some(&owners), step: step() };
        let rows = statements.fetch(self.writes.query(&self.layout, &write)?).await?;
        if !stood(&rows, bases)?.into_iter().all(|stood| stood) {
            return Err(Anew::Moved.into());
        }
        if !changes.strays.is_empty() {
            let strays = changes.strays.iter().map(|(key, account)| (key.get(), account.as_str().to_owned()));
            let (keys, accounts): (Vec<_>, Vec<_>) = strays.unzip();
            statements.run(self.loads.put_strays.query().bind(keys).bind(accounts)).await?;
        }
        Ok(changes)
    }

    pub(super) fn learn(&self, members: &[read::Member]) {
        for (_, lineage) in lineages(members) {
            let Some(keys) = read::whole(lineage) else { continue };
            let behind = lineage.iter().any(|member| member.key.as_ref().is_none_or(|(row, _)| row.is_behind));
            let Some(account) = lineage.first().and_then(|first| first.account.as_ref()).filter(|_| !behind) else {
                continue;
            };
            let (id, version) = (&account.account.id, account.version);
            if !keys.iter().all(|(key, stamp)| self.known.knows(id, version, key.id, *stamp)) {
                self.known.learn(account, keys.into_iter().map(|(key, stamp)| (key.clone(), stamp)));
            }
        }
    }
}

/// A book, and what its rows were when it was filled.
pub(super) struct Loaded {
    book: Book,
    bases: Vec<Basis>,
    /// Those whose `next_expiry` had come, and is another now.
    due: HashSet<AccountId>,
}

/// The places of each account's postings, in their order.
fn by_account(places: &[usize], postings: &[Posting]) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<&AccountId, Vec<usize>> = BTreeMap::new();
    for (place, posting) in places.iter().filter_map(|place| Some((place, postings.get(*place)?))) {
        groups.entry(&posting.account).or_default().push(*place);
    }
    groups.into_values().collect()
}

fn put(answers: &mut [Answer], given: impl Iterator<Item = (usize, Answer)>) {
    for (place, answer) in given {
        if let Some(slot) = answers.get_mut(place) {
            *slot = answer;
        }
    }
}

fn unanswered<'a>(postings: &'a [Posting], answers: &'a [Option<Answer>]) -> impl Iterator<Item = &'a Posting> {
    postings.iter().zip(answers).filter(|(_, answer)| answer.is_none()).map(|(posting, _)| posting)
}
