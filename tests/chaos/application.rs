//! Another process that has the SQLite file open: the application's own, with plain SQL and tables of its own. It does what
//! docs/guarantees.md allows it, and checks that what it revokes is not charged any more.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use crate::invariants;
use crate::process::{self, Process};
use crate::random::Random;
use crate::worker::BUSY_TIMEOUT;

const DATABASE: &str = "AGENTKEY_CHAOS_APPLICATION_DATABASE";
const SEED: &str = "AGENTKEY_CHAOS_APPLICATION_SEED";

/// Starts one; what it says is counted by the word.
pub(crate) fn start(
    database: &str,
    seed: u64,
    said: &Arc<Mutex<BTreeMap<String, usize>>>,
) -> Process {
    let mut program = Process::program();
    program.env(DATABASE, database).env(SEED, seed.to_string());
    let said = said.clone();
    Process::start(program, "an_application_process", move |line| {
        if let Some(word) = line.strip_prefix("DID ") {
            *said.lock().unwrap().entry(word.to_owned()).or_default() += 1;
        }
    })
}

const TABLES: &str = "CREATE TABLE IF NOT EXISTS notes (note INTEGER); \
    CREATE TABLE IF NOT EXISTS revoked (key_id INTEGER PRIMARY KEY, last_entry INTEGER NOT NULL); \
    CREATE TABLE IF NOT EXISTS held (hold_id BLOB PRIMARY KEY, key_id INTEGER NOT NULL);";

/// Works until the test that started the process is gone, or says that it is enough.
pub(crate) fn run() {
    let Ok(database) = std::env::var(DATABASE) else { return };
    let mut random = Random::new(std::env::var(SEED).unwrap().parse().unwrap());
    let enough = process::enough();
    let mut file = loop {
        match open(Path::new(&database)) {
            Ok(file) => break file,
            Err(error) => assert!(is_busy(&error), "{error}"),
        }
    };
    while !enough.load(Ordering::SeqCst) {
        match work(&mut file, &mut random) {
            Ok(did) => process::say(&format!("DID {did}")),
            Err(error) => assert!(is_busy(&error), "{error}"),
        }
        pause(random.below(30));
    }
    while let Err(error) = restore(&mut file) {
        assert!(is_busy(&error), "{error}");
    }
    std::process::exit(0);
}

fn open(database: &Path) -> rusqlite::Result<Connection> {
    let file = Connection::open(database)?;
    file.busy_timeout(Duration::from_secs(5))?;
    file.execute_batch(TABLES)?;
    Ok(file)
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}

fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

fn work(file: &mut Connection, random: &mut Random) -> rusqlite::Result<&'static str> {
    match random.below(16) {
        0..4 => lock(file, random),
        4..6 => read(file, random),
        6..8 => checkpoint(file),
        8..12 => change(file, random),
        12..14 => revoke(file, random),
        _ => restore(file),
    }
}

fn write(file: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    file.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// Keeps the lock that every posting needs; seldom for longer than it is waited for.
fn lock(file: &mut Connection, random: &mut Random) -> rusqlite::Result<&'static str> {
    let locked = write(file)?;
    locked.execute("INSERT INTO notes VALUES (random())", [])?;
    let is_long = random.below(40) == 0;
    pause(if is_long { BUSY_TIMEOUT.as_millis() as u64 * 3 / 2 } else { random.below(20) });
    match random.below(4) {
        0 => locked.rollback()?,
        _ => locked.commit()?,
    }
    Ok(if is_long { "long lock" } else { "lock" })
}

/// Keeps a snapshot, behind which the WAL grows.
fn read(file: &mut Connection, random: &mut Random) -> rusqlite::Result<&'static str> {
    let reading = file.transaction()?;
    let sum = |sql| reading.query_one(sql, [], |row| row.get::<_, i64>(0));
    let spent = "SELECT coalesce(sum(spent), 0) FROM agentkey_accounts";
    let charged = "SELECT coalesce(sum(amount), 0) FROM agentkey_entries";
    let before = sum(spent)?;
    pause(random.below(60));
    assert_eq!((before, before), (sum(spent)?, sum(charged)?), "a snapshot stands, and adds up");
    reading.commit()?;
    Ok("snapshot")
}

fn checkpoint(file: &Connection) -> rusqlite::Result<&'static str> {
    let is_busy: bool = file.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(if is_busy { "busy checkpoint" } else { "checkpoint" })
}

/// Changes policy in ways that make no charge fail. Limits are only raised; a window that began with the test has all
/// entries in it.
fn change(file: &mut Connection, random: &mut Random) -> rusqlite::Result<&'static str> {
    let changing = write(file)?;
    let key = any_key(&changing, random)?;
    let change = match random.below(7) {
        0 => "UPDATE agent_keys SET name = 'renamed' WHERE id = ?1",
        1 => "UPDATE agent_keys SET scopes = iif(scopes IS NULL, '[\"*\"]', NULL) WHERE id = ?1",
        2 => "UPDATE agent_keys SET limit_micros = limit_micros + 10000 WHERE id = ?1",
        3 => {
            "UPDATE agent_keys SET period = iif(period = 'week', 'lifetime', 'week') WHERE id = ?1"
        }
        // As wide as it gets: it refuses nothing, and is counted.
        4 => {
            "UPDATE agent_keys SET more_limits = iif(more_limits IS NULL, '{\"day\": 9000000000000}', NULL) WHERE id = ?1"
        }
        5 => {
            "INSERT INTO agent_keys (account_id, name, key_hash, created_at) \
             SELECT account_id, 'unused', lower(hex(randomblob(32))), unixepoch() * 1000000 FROM agent_keys WHERE id = ?1"
        }
        _ => {
            "DELETE FROM agent_keys WHERE name = 'unused' AND id <> ?1 \
             AND id NOT IN (SELECT parent_id FROM agent_keys WHERE parent_id IS NOT NULL)"
        }
    };
    changing.execute(change, [key])?;
    changing.commit()?;
    Ok("change")
}

fn any_key(file: &Connection, random: &mut Random) -> rusqlite::Result<i64> {
    let ids = file
        .prepare("SELECT id FROM agent_keys ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(ids[random.below(ids.len() as u64) as usize])
}

/// A revoked key and all that was minted from it.
const FAMILY: &str = "WITH RECURSIVE family (root, id) AS (SELECT key_id, key_id FROM revoked UNION \
    SELECT f.root, k.id FROM family f JOIN agent_keys k ON k.parent_id = f.id)";

/// Revokes a key, or lets it expire, and takes note of what the ledger had of it.
fn revoke(file: &mut Connection, random: &mut Random) -> rusqlite::Result<&'static str> {
    let column = if random.below(2) == 0 { "revoked_at" } else { "expires_at" };
    let revoking = write(file)?;
    check_revoked(&revoking)?;
    let key = any_key(&revoking, random)?;
    let last =
        "INSERT OR IGNORE INTO revoked SELECT ?1, coalesce(max(number), 0) FROM agentkey_entries";
    if revoking.execute(last, [key])? == 0 {
        return Ok("revoked before");
    }
    revoking
        .execute(&format!("UPDATE agent_keys SET {column} = created_at WHERE id = ?1"), [key])?;
    let held = format!(
        "{FAMILY} INSERT INTO held SELECT h.id, f.root FROM family f JOIN agentkey_holds h ON h.key_id = f.id WHERE f.root = ?1 \
         ON CONFLICT DO NOTHING"
    );
    revoking.execute(&held, [key])?;
    revoking.commit()?;
    Ok("revocation")
}

/// What was accepted of revoked keys after all. Work that was under way is settled, and payments are given back.
const ACCEPTED: &str = "SELECT format('key %s was revoked after entry %s, and %s paid with entry %s', f.root, r.last_entry, f.id, \
    e.number) FROM family f JOIN revoked r ON r.key_id = f.root \
    JOIN agentkey_entries e ON e.key_id = f.id AND e.number > r.last_entry AND e.kind = 'pay' UNION ALL \
    SELECT format('key %s was revoked, and %s holds %s', f.root, f.id, hex(h.id)) FROM family f \
    JOIN agentkey_holds h ON h.key_id = f.id WHERE h.id NOT IN (SELECT hold_id FROM held)";

/// Panics where revoked keys were charged.
fn check_revoked(file: &Connection) -> rusqlite::Result<()> {
    let mut accepted = file.prepare(&format!("{FAMILY} {ACCEPTED}"))?;
    let accepted: Vec<String> =
        accepted.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    invariants::none(&accepted);
    Ok(())
}

/// Takes the revocations back.
fn restore(file: &mut Connection) -> rusqlite::Result<&'static str> {
    let restoring = write(file)?;
    check_revoked(&restoring)?;
    let restored = restoring.execute(
        "UPDATE agent_keys SET revoked_at = NULL, expires_at = NULL WHERE id IN (SELECT key_id FROM revoked)",
        [],
    )?;
    restoring.execute_batch("DELETE FROM revoked; DELETE FROM held")?;
    restoring.commit()?;
    Ok(if restored == 0 { "nothing to restore" } else { "restoration" })
}
